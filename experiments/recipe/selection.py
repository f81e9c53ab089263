"""The selection tasks: what a theta is judged on, which are no test tasks and not trained on."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from generalisation import BASELINES, TUNING_SEEDS, made_once, tune
from jax.flatten_util import ravel_pytree

import comm_lopt
from comm_lopt.meta_test import Problem, meta_test_problem, run
from comm_lopt.methods import Method, hand_designed, learned
from comm_lopt.upstream import LearnedOptimizer

__all__ = ["SEEDS", "TASKS", "SelectionTask", "judged", "load", "tuned_baseline"]

PyTree = Any
Losses = dict[str, list[list[float | None]]]

_FOLDER = pathlib.Path(__file__).resolve().parent / "selection"

TASKS: Mapping[str, str] = {
    "mlp14": "MLP 196-64-64-10",
    "mlp14_deep": "MLP, 5 hidden layers",
    "mlp14_h1": "the first at H = 1",
    "conv8": "convnet 8-16",
    "gru": "GRU",
    "autoencoder": "autoencoder",
    "transformer": "transformer",
}
"""Titles by name, which is that of the gin file in selection/."""

SEEDS = (2000, 2001)
_BASELINE = "SlowMo"
# The test split is for testing, and outer_valid for meta-training on held-out losses.
_HELDOUT = "meta_test_problem.heldout_split = 'inner_valid'"


@dataclasses.dataclass(frozen=True)
class SelectionTask:
    """A selection task, ready to run.

    Attributes:
      name: of its gin file.
      problem: K, H, T and the task.
      told: `problem.describe()`, as gin was when it was made.
    """

    name: str
    problem: Problem
    told: Mapping[str, Any]


def load(name: str) -> SelectionTask:
    """Has gin describe the task, in place of what it described."""
    comm_lopt.load_config([str(_FOLDER / f"{name}.gin")], [_HELDOUT])
    problem = meta_test_problem()
    return SelectionTask(name, problem, problem.describe())


def judged(
    task: SelectionTask,
    opt: LearnedOptimizer,
    theta: PyTree,
    local_optimizer: str,
    rates: Sequence[float],
) -> Losses:
    """Losses of a theta around a local optimizer, at each of `rates`; see `_losses`."""
    flat, unflattened = ravel_pytree(theta)
    # An argument of the programs, which are then the same for all thetas of a rule.
    method = dataclasses.replace(
        learned(opt, theta, local_opt=local_optimizer),
        make_rule=lambda theta, **_: opt.opt_fn(unflattened(theta)),
    )
    return _losses(task, method, [{"theta": flat, "local_learning_rate": r} for r in rates])


def _losses(task: SelectionTask, method: Method, grid: Sequence[Mapping[str, Any]]) -> Losses:
    """Losses of a method at the end of T rounds, by what they are of: a list per grid point.

    Returns:
      "train" and "heldout": [G][S], None where a run diverged.
    """
    curves = run(task.problem, method, SEEDS, grid, evaluations="end")
    losses = {"train": curves.final_train_loss, "heldout": curves.heldout_loss[..., -1]}
    return {kind: _json(np.where(curves.diverged, np.nan, x)) for kind, x in losses.items()}


def _json(losses: np.ndarray) -> list[list[float | None]]:
    return [[float(x) if math.isfinite(x) else None for x in row] for row in losses]


def tuned_baseline(folder: pathlib.Path, task: SelectionTask) -> dict[str, Any]:
    """SlowMo on the task, tuned on other seeds; see `made_once`.

    Returns:
      "losses" as of `judged`, at its one rate, "best", "on_edge" and "stages" (see
      `Tuned`) and "cpu_seconds".

    Raises:
      BusyError: another process is tuning it.
      ValueError: it diverged wherever it was tried.
    """
    plan = BASELINES[_BASELINE]
    seeds = {"tuning": TUNING_SEEDS, "selection": SEEDS}
    told = {"problems": {task.name: task.told}, "plan": plan.describe(), "seeds": seeds}

    def make() -> dict[str, Any]:
        begin = time.process_time()
        method = hand_designed(_BASELINE)
        found = tune(task.problem, method, plan)
        best = method.with_values(f"tuned on seeds {TUNING_SEEDS}", **found.best)
        losses = _losses(task, best, [{}])
        if None in losses["train"][0]:
            raise ValueError(f"{_BASELINE}, tuned on {task.name}, diverges with seeds {SEEDS}.")
        spent = time.process_time() - begin
        return {"losses": losses, **dataclasses.asdict(found), "cpu_seconds": spent}

    return made_once(folder / f"{task.name}.json", told, make)
