"""Settings of a round that can be given in several ways, checked and brought to one."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import optax

from comm_lopt.hyperparameters import REQUIRED, configured, plain

__all__ = ["LocalOptimizer", "built_local_opt", "checked_participation", "checked_rate"]

LocalOptimizer: TypeAlias = (
    "optax.GradientTransformation | Callable[..., optax.GradientTransformation]"
)
"""What takes the local steps: a transformation, or what makes one from a `learning_rate`."""


def checked_rate(
    local_opt: LocalOptimizer, rate: float | Sequence[float] | None
) -> float | tuple[float, float] | None:
    """γ, a range of it, or None for a transformation that has its own.

    Raises:
      TypeError: `local_opt` is not what it must be.
      ValueError: a range that is none above 0, a rate beside a transformation, or none at all.
    """
    if isinstance(local_opt, optax.GradientTransformation):
        if rate is not None:
            raise ValueError(
                f"local_learning_rate={rate} beside an optax transformation, which has a rate of "
                "its own; pass what makes it, such as local_opt=optax.adamw."
            )
        return None
    if isinstance(rate, np.ndarray) and rate.ndim == 1:
        rate = rate.tolist()
    if isinstance(rate, Sequence):
        if len(rate) != 2 or not 0 < rate[0] <= rate[1]:
            raise ValueError(
                f"local_learning_rate={rate} must be one rate or (smallest, largest), above 0; "
                "write for example (0.1, 1.0)."
            )
        return float(rate[0]), float(rate[1])
    built = None
    if rate is None and callable(local_opt):
        known = configured(local_opt).get("learning_rate")
        if known is not None and known.value is REQUIRED:
            raise ValueError(
                f"local_opt={local_opt!r} has no learning rate of its own; pass "
                "local_learning_rate=0.1, say."
            )
        if known is not None:
            rate = known.value
            built = local_opt()  # So that gin has the rate among what was used.
    elif callable(local_opt):
        built = local_opt(learning_rate=rate)
    if not isinstance(built, optax.GradientTransformation):
        raise TypeError(
            f"local_opt={local_opt!r} is no optax.GradientTransformation and makes none from "
            "learning_rate=...; pass comm_lopt.local_sgd or any optax optimizer."
        )
    return cast("float | None", rate)


def built_local_opt(local_opt: LocalOptimizer, rate: Any) -> optax.GradientTransformation:
    """The transformation for a rate, which may be traced; see `checked_rate`."""
    if isinstance(local_opt, optax.GradientTransformation):
        return local_opt
    return local_opt(learning_rate=rate)


def checked_participation(participation: float | None, num_workers: int) -> int | None:
    """The number of workers that take part in a round, or None for all of them always.

    Raises:
      ValueError: neither a fraction in (0, 1] nor a count from 1 to K.
    """
    if participation is None:
        return None
    participation = plain(participation)
    whole = isinstance(participation, numbers.Integral) and not isinstance(participation, bool)
    low, high = (1, num_workers) if whole else (0, 1)
    if not (low <= participation <= high) or participation == 0:
        raise ValueError(
            f"participation={participation!r} must be a count from 1 to num_workers={num_workers}, "
            "or a fraction in (0, 1]; pass for example 0.5, or None for all workers."
        )
    return int(participation) if whole else max(1, round(participation * num_workers))
