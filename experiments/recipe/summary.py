"""What a theta is worth: its losses as ratios to those of tuned SlowMo, and their means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["KINDS", "LARGEST_RATIO", "MEASURES", "of_line", "of_theta"]

KINDS = ("train", "heldout")
MEASURES = tuple(f"{kind}_{over}" for kind in KINDS for over in ("mean", "worst"))
"""Geometric means over tasks: of the geometric mean over γ, and of the worst γ."""

LARGEST_RATIO = 10.0
"""Stands for a run that diverged, and for all ratios above it."""

Losses = Mapping[str, Sequence[Sequence[float | None]]]


def of_theta(losses: Mapping[str, Losses], baselines: Mapping[str, Losses]) -> dict[str, Any]:
    """The ratios of one theta.

    Args:
      losses: by task, "train" and "heldout" as [γ][seed].
      baselines: the same of tuned SlowMo, as [1][seed].

    Returns:
      `MEASURES`; "ratios" by task and kind, one for each γ, of means over seeds; and
      "diverged_runs".
    """
    ratios = {
        task: {
            kind: [_mean(seeds) / _mean(baselines[task][kind][0]) for seeds in found[kind]]
            for kind in KINDS
        }
        for task, found in losses.items()
    }
    bounded = {
        task: {kind: [min(ratio, LARGEST_RATIO) for ratio in found] for kind, found in of.items()}
        for task, of in ratios.items()
    }
    measures = {}
    for kind in KINDS:
        measures[f"{kind}_mean"] = _geometric(_geometric(of[kind]) for of in bounded.values())
        measures[f"{kind}_worst"] = _geometric(max(of[kind]) for of in bounded.values())
    diverged = sum(x is None for of in losses.values() for seeds in of["train"] for x in seeds)
    return {**measures, "ratios": bounded, "diverged_runs": diverged}


def of_line(thetas: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the meta-seeds of a line, and standard deviations ("_std"; None of one alone).

    Args:
      thetas: by meta-seed, what `of_theta` gives, with "seconds" ("wall" and "cpu" of
        meta-training; None where it was interrupted).

    Returns:
      `MEASURES` and their deviations; "tasks" by task and kind, geometric means over γ; the sum of
      "diverged_runs"; and mean "seconds".
    """
    values = [*thetas.values()]
    out: dict[str, Any] = {}
    for name in MEASURES:
        found = [theta[name] for theta in values]
        out[name] = float(np.mean(found))
        out[f"{name}_std"] = float(np.std(found, ddof=1)) if len(found) > 1 else None
    out["tasks"] = {
        task: {
            kind: float(np.mean([_geometric(theta["ratios"][task][kind]) for theta in values]))
            for kind in KINDS
        }
        for task in values[0]["ratios"]
    }
    out["diverged_runs"] = sum(theta["diverged_runs"] for theta in values)
    out["seconds"] = {}
    for clock in ("wall", "cpu"):
        known = [s for s in (theta["seconds"][clock] for theta in values) if s is not None]
        out["seconds"][clock] = float(np.mean(known)) if known else None
    return out


def _mean(losses: Sequence[float | None]) -> float:
    known = [loss for loss in losses if loss is not None]
    return math.inf if len(known) < len(losses) else sum(known) / len(known)


def _geometric(ratios: Iterable[float]) -> float:
    return float(np.exp(np.mean(np.log([*ratios]))))
