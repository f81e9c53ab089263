"""Every global optimizer by name. A new one is a new file and one entry here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from comm_lopt.checks import require_choice
from comm_lopt.optimizers import rules
from comm_lopt.optimizers.learned.lagg import LAgg, LAggA
from comm_lopt.optimizers.learned.lopt import LOpt, LOptA
from comm_lopt.optimizers.learned.mixed_momenta import LOptM
from comm_lopt.optimizers.learned.relative import LAggR, LOptR
from comm_lopt.upstream import LearnedOptimizer

__all__ = ["OPTIMIZERS", "OptimizerEntry", "Sends", "Workers", "optimizer_entry"]

Sends = Literal["mean", "mean_and_squares", "worker_deltas", "gradient"]
Workers = Literal["all", "one"]

_RATES = (4.0, 2.0, 1.0, 0.5, 0.3, 0.1, 0.05, 0.01, 0.005, 0.001, 0.0005, 0.0001)
_MOMENTA = (0.95, 0.9, 0.85, 0.8, 0.7, 0.5)
_OUTER_RATES = (1.0, 0.7, 0.4, 0.2, 0.1, 0.05)
_OUTER_MOMENTA = (0.95, 0.9, 0.8, 0.6, 0.3)
_SERVER_RATES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


@dataclasses.dataclass(frozen=True)
class OptimizerEntry:
    """A global optimizer in the registry, with what it is usually combined with.

    Attributes:
      make: the global rule: a learned optimizer's class, or a function that makes an optax
        transformation; its keyword arguments are the hyperparameters.
      summary: one line for people.
      source: short citation.
      grid: values that a sweep tries by default, by hyperparameter of the rule; the local
        optimizer's come with it.
      sends: what a worker sends; see `Method`.
      local_opt: name of the local optimizer.
      workers: "all" K, or "one" on the examples of all.
      defaults: values in place of those of `make`; the local optimizer's begin with "local_".
      colour: which of `palette.COLOURS` figures draw it in; by its place in the registry if None.
        An optimizer that came later names one, so that the others keep theirs.
    """

    make: Callable[..., Any]
    summary: str
    source: str
    grid: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    sends: Sends = "mean"
    local_opt: str = "local_sgd"
    workers: Workers = "all"
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    colour: int | None = None

    @property
    def is_learned(self) -> bool:
        """Whether it runs with a theta."""
        return isinstance(self.make, type) and issubclass(self.make, LearnedOptimizer)


def _learned(
    make: type[LearnedOptimizer],
    summary: str,
    sends: Sends = "mean",
    source: str = "Joseph et al. 2025",
    local_opt: str = "local_sgd",
    colour: int | None = None,
) -> OptimizerEntry:
    return OptimizerEntry(make, summary, source, sends=sends, local_opt=local_opt, colour=colour)


def _nesterov(
    summary: str, source: str, local_opt: str, momentum: float, rate: float = 0.7,
    workers: Workers = "all", rates: tuple[float, ...] = _OUTER_RATES,
    momenta: tuple[float, ...] = _OUTER_MOMENTA, rule: Callable[..., Any] = rules.nesterov,
    colour: int | None = None,
) -> OptimizerEntry:  # fmt: skip
    return OptimizerEntry(
        rule, summary, source,
        {"learning_rate": rates, "momentum": momenta},
        local_opt=local_opt, workers=workers,
        defaults={"learning_rate": rate, "momentum": momentum}, colour=colour,
    )  # fmt: skip


def _gradient(make: Callable[..., Any], summary: str, source: str, **grid: Any) -> OptimizerEntry:
    return OptimizerEntry(make, summary, source, grid, sends="gradient")


OPTIMIZERS: Mapping[str, OptimizerEntry] = {
    "LOptA": _learned(LOptA, "learned, Ada features of the mean delta; any K"),
    "LAggA": _learned(
        LAggA, "learned, Ada features with each worker's delta; fixed K", "worker_deltas"
    ),
    "LOpt": _learned(LOpt, "learned, momentum features of the mean delta; any K"),
    "LAgg": _learned(
        LAgg, "learned, momentum features with each worker's delta; fixed K", "worker_deltas"
    ),
    "LOptR": _learned(LOptR, "learned, steps of the size of the mean delta; any K", source=""),
    "LAggR": _learned(
        LAggR, "the same with statistics of the workers; any K", "mean_and_squares", source=""
    ),
    "LOptM": _learned(
        LOptM, "learned, mixes the mean delta and its momenta; any K", source="",
        local_opt="local_muon", colour=7,
    ),  # fmt: skip
    "LocalSGD": OptimizerEntry(rules.averaging, "mean of the workers' weights", "Stich 2019"),
    "OuterSGD": OptimizerEntry(
        rules.outer_sgd, "a step along the mean delta with a rate of its own", "Reddi et al. 2021",
        {"learning_rate": (3.0, 2.0, 1.5, 1.25, 1.0, 0.75, 0.5)},
    ),
    "SlowMo": OptimizerEntry(
        rules.slowmo, "momentum on the mean delta", "Wang et al. 2020",
        {"slow_learning_rate": (4.0, 2.0, 1.0, 0.5), "momentum": _MOMENTA},
    ),
    "FedAvgM": OptimizerEntry(
        rules.fedavgm, "server momentum", "Hsu et al. 2019",
        {"learning_rate": (4.0, 2.0, 1.0, 0.5), "momentum": (0.95, 0.9, 0.7, 0.5, 0.3)},
    ),
    "FedAdam": OptimizerEntry(
        rules.fedadam, "Adam on the mean delta, without bias correction", "Reddi et al. 2021",
        {"learning_rate": _SERVER_RATES, "tau": (1e-1, 1e-2, 1e-3, 1e-4)},
    ),
    "FedYogi": OptimizerEntry(
        rules.fedyogi, "Yogi on the mean delta, without bias correction", "Reddi et al. 2021",
        {"learning_rate": _SERVER_RATES, "tau": (1e-1, 1e-2, 1e-3, 1e-4)},
    ),
    "DiLoCo": _nesterov(
        "AdamW inside, Nesterov outside", "Douillard et al. 2023", "local_adamw", 0.9
    ),
    "MuLoCo": _nesterov(
        "Muon inside, Nesterov outside", "Thérien et al. 2025", "local_muon", 0.6,
        momenta=(0.9, 0.8, 0.6, 0.3, 0.0),
    ),
    "MuLoCoLinear": _nesterov(
        "MuLoCo, its local rate falling in a line over T rounds", "", "local_muon", 0.6,
        momenta=(0.9, 0.8, 0.6, 0.3, 0.0), rule=rules.falling_nesterov, colour=0,
    ),
    "DiLoCoK1": _nesterov(
        "DiLoCo of one worker on all examples", "Thérien et al. 2025", "local_adamw", 0.8,
        workers="one",
    ),
    "SNOO": _nesterov(
        "SGD inside, Nesterov outside, one worker on all examples", "Kallusky et al. 2025",
        "local_sgd", 0.75, 0.8, "one", (4.0, 2.0, 1.0, 0.7, 0.4), (0.98, 0.95, 0.9, 0.8, 0.6),
    ),
    "EMANesterov": OptimizerEntry(
        rules.ema_nesterov, "rounds start ahead, along the mean step", "Yau et al. 2026",
        {"lookahead": (0.98, 0.95, 0.9, 0.8, 0.6, 0.3), "decay": (0.95, 0.8, 0.5, 0.2, 0.0)},
    ),
    "GPA": OptimizerEntry(
        rules.gpa, "generalized primal averaging of rounds", "Defazio et al. 2025",
        {
            "learning_rate": (150.0, 60.0, 15.0, 4.0),
            "train_interp_coeff": (0.99, 0.97, 0.9),
            "eval_interp_coeff": (0.995, 0.99, 0.95, 0.9, 0.8),
        },
    ),
    "DataParallelSGD": _gradient(
        rules.data_parallel_sgd, "one SGD step a communication on the whole batch", "",
        learning_rate=_RATES,
    ),
    "DataParallelSGDM": _gradient(
        rules.data_parallel_sgdm, "the same with momentum", "Polyak 1964",
        learning_rate=_RATES, momentum=(0.95, 0.9, 0.8, 0.5),
    ),
    "DataParallelAdam": _gradient(
        rules.data_parallel_adam, "one Adam step a communication on the whole batch",
        "Kingma and Ba 2015", learning_rate=_RATES,
    ),
}  # fmt: skip
"""Every global optimizer that ships, by its name in `comm-lopt optimizers`."""


def optimizer_entry(name: str) -> OptimizerEntry:
    """Returns the entry of an optimizer.

    Raises:
      ValueError: no optimizer of that name; the nearest known name is suggested.
    """
    return OPTIMIZERS[require_choice("optimizer", name, OPTIMIZERS)]
