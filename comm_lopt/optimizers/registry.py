"""Every global optimizer by name. A new one is a new file and one line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from comm_lopt.checks import nearest_name, require_choice
from comm_lopt.optimizers.averaging import LocalSGD
from comm_lopt.optimizers.data_parallel import DataParallelAdam, DataParallelSGD
from comm_lopt.optimizers.lagg import LAgg, LAggA
from comm_lopt.optimizers.lopt import LOpt, LOptA
from comm_lopt.optimizers.slowmo import SlowMo

__all__ = ["OPTIMIZERS", "OptimizerEntry", "optimizer_entry", "require_hparam"]

# Grids of Joseph et al. 2025, SlowMo's thinned to what one vectorised sweep holds comfortably,
# learning rates extended upwards so that small problems do not end at the edge.
_LOCAL_RATES = (4.0, 2.0, 1.0, 0.5, 0.3, 0.1)
_SLOW_RATES = (1.0, 0.5, 0.1)
_MOMENTA = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
_GLOBAL_RATES = (4.0, 2.0, 1.0, 0.5, 0.1, 0.05, 0.01, 0.005, 0.001, 0.0005, 0.0001)


@dataclasses.dataclass(frozen=True)
class OptimizerEntry:
    """A global optimizer in the registry.

    Attributes:
      make: the class; its keyword arguments are the hyperparameters.
      kind: "learned" (takes theta), "local" (descends on Δ) or "data_parallel".
      grid: values a sweep tries by default, by hyperparameter; `local_learning_rate` is that
        of the local steps, the others go to `make`.
      summary: one line for people.
    """

    make: Callable[..., Any]
    kind: Literal["learned", "local", "data_parallel"]
    grid: Mapping[str, tuple[float, ...]]
    summary: str


def _learned(make: Callable[..., Any], summary: str) -> OptimizerEntry:
    return OptimizerEntry(make, "learned", {"local_learning_rate": _LOCAL_RATES}, summary)


OPTIMIZERS: Mapping[str, OptimizerEntry] = {
    "LOptA": _learned(LOptA, "learned, Ada features of the mean delta; any K"),
    "LAggA": _learned(LAggA, "learned, Ada features with each worker's delta; fixed K"),
    "LOpt": _learned(LOpt, "learned, momentum features of the mean delta; any K"),
    "LAgg": _learned(LAgg, "learned, momentum features with each worker's delta; fixed K"),
    "LocalSGD": OptimizerEntry(
        LocalSGD, "local", {"local_learning_rate": _LOCAL_RATES}, "mean of the workers' weights"
    ),
    "SlowMo": OptimizerEntry(
        SlowMo,
        "local",
        {
            "local_learning_rate": _LOCAL_RATES,
            "slow_learning_rate": _SLOW_RATES,
            "momentum": _MOMENTA,
        },
        "momentum on the mean delta",
    ),
    "DataParallelSGD": OptimizerEntry(
        DataParallelSGD,
        "data_parallel",
        {"learning_rate": _GLOBAL_RATES},
        "one SGD step a communication on the whole batch",
    ),
    "DataParallelAdam": OptimizerEntry(
        DataParallelAdam,
        "data_parallel",
        {"learning_rate": _GLOBAL_RATES},
        "one Adam step a communication on the whole batch",
    ),
}


def optimizer_entry(name: str) -> OptimizerEntry:
    """Returns the entry of an optimizer.

    Raises:
      ValueError: no optimizer of that name; the nearest known name is suggested.
    """
    return OPTIMIZERS[require_choice("optimizer", name, OPTIMIZERS)]


def require_hparam(name: str, hparam: str) -> None:
    """Raises ValueError, with the nearest known one, unless optimizer `name` has `hparam`."""
    known = optimizer_entry(name).grid
    if hparam not in known:
        raise ValueError(f"{name} has no hyperparameter {hparam!r}; {nearest_name(hparam, known)}")
