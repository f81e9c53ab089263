"""Tuning by successive halving: coarse and short, then finer, longer and over seeds."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from grids import Plan, Point

from comm_lopt.meta_test import Problem, run
from comm_lopt.meta_test.evaluation import EvaluationPart, evaluation_part
from comm_lopt.methods import Method

__all__ = ["TUNING_SEEDS", "Tuned", "tune"]

TUNING_SEEDS = (0, 1, 2)

_SHARE_OF_ROUNDS = 4
_MOST_EXTENSIONS = 3
# A core's caches hold no more. On a GPU a round takes the same time for one point and for many.
_POINTS_SIDE_BY_SIDE = 6 if jax.default_backend() == "cpu" else 36
_FEW_EXAMPLES = 32


class _LittleEvaluated(Problem):
    """A problem as it is trained; tuning looks at the losses of training alone."""

    @functools.cached_property
    def heldout_part(self) -> EvaluationPart:
        return evaluation_part(self.task_family.datasets, self.heldout_split, _FEW_EXAMPLES)

    @functools.cached_property
    def train_part(self) -> EvaluationPart:
        return evaluation_part(self.task_family.datasets, "train", _FEW_EXAMPLES)


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What tuning found.

    Attributes:
      best: hyperparameters of the best point.
      on_edge: those of them that are the smallest or largest value tried, though there are
        values beyond.
      stages: every point that was tried, in order: "rounds", "seeds", and for each point
        "hparams" and "final_train_loss" (None if a seed diverged).
    """

    best: dict[str, float]
    on_edge: list[str]
    stages: list[dict[str, Any]]


def tune(problem: Problem, method: Method, plan: Plan, tuning_rounds: int | None = None) -> Tuned:
    """Finds the point of the lowest final training loss.

    1. All points of the coarse grid run with the first tuning seed for a quarter of the rounds,
       and the best of them for all.
    2. Around the best point so far, those half a step away within the grid and a whole step
       away beyond its edges run; again as often as the plan says, and up to three times more,
       beyond the edges alone, for as long as the best point lies on one.
    3. The best few, if more than one, run with the other tuning seeds; the lowest mean over
       seeds wins.

    Args:
      problem: what is trained for T rounds.
      method: what is tuned.
      plan: its axes, and how many points each step takes.
      tuning_rounds: rounds in place of T in steps 1 and 2; finalists then run for T with one
        tuning seed less.

    Raises:
      ValueError: every point diverged.
    """
    rounds = tuning_rounds or problem.num_rounds
    stages: list[dict[str, Any]] = []

    def losses(
        points: Sequence[Point], num_rounds: int, seeds: Sequence[int]
    ) -> dict[Point, float]:
        return _losses(problem, method, plan, points, num_rounds, seeds, stages)

    short = losses(plan.coarse(), max(1, rounds // _SHARE_OF_ROUNDS), TUNING_SEEDS[:1])
    full = losses(_best(short, plan.kept), rounds, TUNING_SEEDS[:1])
    # Every position of the coarse grid counts as tried.
    tried = {*short}
    for step in range(plan.refinements + _MOST_EXTENSIONS):
        (best,) = _best(full, 1)
        around = plan.beyond(best, tried)
        if step < plan.refinements:
            around += plan.between(best, tried)
        new = [point for point in around if point not in full]
        if not new:
            break
        full |= losses(new, rounds, TUNING_SEEDS[:1])
        tried |= {*new}

    means = {point: full[point] for point in _best(full, plan.finalists)}
    seeds = TUNING_SEEDS[: plan.num_seeds][1:]
    if len(means) > 1 and seeds:
        further = losses([*means], problem.num_rounds, seeds)
        # A loss after other rounds than these does not count.
        known = 1 if rounds == problem.num_rounds else 0
        means = {
            point: (further[point] * len(seeds) + full[point] * known) / (len(seeds) + known)
            if math.isfinite(full[point])
            else math.inf
            for point in means
        }
    (best,) = _best(means, 1)
    if not math.isfinite(means[best]):
        raise ValueError(f"every point of {method.label} diverged; widen its grid downwards.")
    beyond = plan.beyond(best, tried)
    edges = [
        axis.name
        for number, axis in enumerate(plan.axes)
        if any(point[number] != best[number] for point in beyond)
    ]
    return Tuned(plan.hparams(best), edges, stages)


def _best(losses: Mapping[Point, float], count: int) -> list[Point]:
    return sorted(losses, key=lambda point: (losses[point], point))[:count]


def _losses(
    problem: Problem,
    method: Method,
    plan: Plan,
    points: Sequence[Point],
    num_rounds: int,
    seeds: Sequence[int],
    stages: list[dict[str, Any]],
) -> dict[Point, float]:
    """The final training loss of each point, mean over seeds; infinite if one diverged."""
    settings = {field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)}
    curves = run(
        _LittleEvaluated(**{**settings, "num_rounds": num_rounds}),
        method,
        seeds,
        [plan.hparams(point) for point in points],
        _POINTS_SIDE_BY_SIDE,
        evaluations="end",
    )
    means, diverged = curves.final_train_loss.mean(1), np.any(curves.diverged, axis=1)
    found = {
        point: math.inf if gone else float(loss)
        for point, loss, gone in zip(points, means, diverged, strict=True)
    }
    stages.append(
        {
            "rounds": num_rounds,
            "seeds": list(seeds),
            "points": [
                {
                    "hparams": plan.hparams(point),
                    "final_train_loss": loss if math.isfinite(loss) else None,
                }
                for point, loss in found.items()
            ],
        }
    )
    return found
