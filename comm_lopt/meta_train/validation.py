"""Validation: theta as it is trains from fixed seeds, and its losses say how good it is."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from comm_lopt import upstream
from comm_lopt.checks import require_at_least_one, require_seed
from comm_lopt.compiler_options import optimization_level
from comm_lopt.data.feeding.rounds import RoundIterator
from comm_lopt.meta_test.runs import advance_run, chunks_of_rounds, running_mean, start_run
from comm_lopt.meta_train.log import of_family

__all__ = ["SEEDS", "Validation", "make_validation"]

PyTree = Any

SEEDS = (1000, 1001, 1002)
"""Seeds of validation unless others are given; no example of comm_lopt's tests with them."""

_TIMES = 10
_LARGEST_SHARE = 0.05


@dataclasses.dataclass(frozen=True)
class _Runs:
    """Whole runs of one family, from all seeds: compiled once, for every theta."""

    start: Any
    advance: Any
    train: RoundIterator
    num_rounds: int


class Validation:
    """Whole runs with theta as it is, on fixed seeds, every so many meta-steps and at the end.

    A seed decides the initial weights and the order of the training data, as in `meta_test`. The
    losses are those of `Curves.train_loss`, capped by the task's normalizer as the meta-loss is, so
    that a run that diverges costs a finite amount. Meta-training itself goes on as without it.

    Args:
      families: what is meta-trained on, by name, with its number of rounds T.
      learned_opt: the optimizer that theta belongs to.
      every: meta-steps from one validation to the next.
      seeds: one run each.

    Raises:
      ValueError: no seeds, one outside [0, 2³²), or a number below 1.
    """

    def __init__(
        self,
        families: Mapping[str, tuple[upstream.TaskFamily, int]],
        learned_opt: upstream.LearnedOptimizer,
        every: int,
        seeds: Sequence[int] = SEEDS,
    ):
        self.every = require_at_least_one(
            "validation_every", every, "meta-steps between validations"
        )
        self.seeds = [require_seed("validation_seeds", seed) for seed in seeds]
        require_at_least_one("len(validation_seeds)", len(self.seeds), "seeds")
        self._keys = jnp.stack([jax.random.PRNGKey(seed) for seed in self.seeds])
        self._runs = {
            name: _runs_of(
                family, learned_opt, require_at_least_one("validation_rounds", rounds, "rounds")
            )
            for name, (family, rounds) in families.items()
        }

    def is_due(self, meta_step: int, last: int) -> bool:
        """Whether to validate after this meta-step of a run with `last` ones."""
        return meta_step % self.every == 0 or meta_step == last

    def row(self, meta_step: int, theta: PyTree) -> dict[str, float]:
        """The losses of theta, as `MetaTrainLog.write_validation` takes them.

        Returns:
          of a run's T rounds the mean loss and that of the last 5 %, means over seeds and families;
          with several families those of each beside them.
        """
        begin = time.perf_counter()
        losses = {name: self._losses(runs, theta) for name, runs in self._runs.items()}
        by_family = {
            name: {
                "mean_train_loss": float(curves.mean()),
                "final_train_loss": float(running_mean(curves)[:, -1].mean()),
            }
            for name, curves in losses.items()
        }
        row = {
            measure: float(np.mean([measures[measure] for measures in by_family.values()]))
            for measure in ("mean_train_loss", "final_train_loss")
        }
        if len(by_family) > 1:
            for name, measures in by_family.items():
                row |= {of_family(measure, name): loss for measure, loss in measures.items()}
        seconds = round(time.perf_counter() - begin, 3)
        return {"meta_step": meta_step, **row, "seconds": seconds}

    def _losses(self, runs: _Runs, theta: PyTree) -> np.ndarray:
        """[S, T]."""
        data = [runs.train.reseeded(seed) for seed in self.seeds]
        losses = []
        try:
            carry = runs.start(theta, self._keys)
            for first_round, batches in chunks_of_rounds(data, [runs.num_rounds]):
                first = jnp.asarray(first_round, jnp.int32)
                carry, loss = runs.advance(theta, self._keys, carry, first, batches)
                losses.append(loss)
        finally:
            for rounds in data:
                rounds.close()
        return np.concatenate([np.asarray(loss, np.float64) for loss in losses], axis=1)


def _runs_of(
    family: upstream.TaskFamily, learned_opt: upstream.LearnedOptimizer, num_rounds: int
) -> _Runs:
    def start(theta: PyTree, key: jax.Array) -> PyTree:
        return start_run(family, learned_opt.opt_fn(theta), num_rounds, key)

    def advance(theta: PyTree, key: jax.Array, carry: PyTree, *rounds: Any) -> PyTree:
        carry, losses = advance_run(family, learned_opt.opt_fn(theta), key, carry, *rounds)
        return carry, jax.vmap(family.task_fn(carry[0]).normalizer)(losses)

    return _Runs(
        jax.jit(jax.vmap(start, (None, 0)), compiler_options=optimization_level(0)),
        jax.jit(
            jax.vmap(advance, (None, 0, 0, None, 0)),
            donate_argnums=2,
            compiler_options=optimization_level(1),
        ),
        family.datasets.train,
        num_rounds,
    )


def make_validation(
    estimators: Sequence[upstream.GradientEstimator],
    names: Sequence[str],
    learned_opt: upstream.LearnedOptimizer,
    num_meta_steps: int,
    every: int | None = None,
    num_rounds: int | None = None,
    seeds: Sequence[int] = SEEDS,
) -> tuple[Validation | None, str]:
    """The validation of a run, and a line that says what it does or why there is none.

    Args:
      estimators: of the run, equally many for each task family, those of the first one first.
      names: of the task families.
      learned_opt: what is meta-trained.
      num_meta_steps: of the run.
      every: meta-steps from one validation to the next; 0: none. None: ten validations in the run,
        or fewer if their rounds are over 5 % of those of meta-training, or none if one alone is.
      num_rounds: T; None: the most rounds that the truncation schedule gives a problem.
      seeds: one run each.

    Raises:
      ValueError: as `Validation`.
    """
    if every == 0:
        return None, "none, for validation_every is 0"
    families = {}
    for name, first in zip(names, estimators[:: len(estimators) // len(names)], strict=True):
        family = upstream.task_family_of(first)
        length = upstream.longest_problem(first) if num_rounds is None else num_rounds
        train = None if family.datasets is None else family.datasets.train
        if not isinstance(train, RoundIterator) or not train.can_seek:
            return None, f"none, for the data of {name} cannot be drawn again from a seed"
        if length is None:
            return None, f"none, for it is not said how long {name} runs; bind validation_rounds"
        families[name] = (family, length)
    one = len(seeds) * sum(length for _, length in families.values())
    rounds = [upstream.rounds_per_estimate(estimator) or math.inf for estimator in estimators]
    meta_training = num_meta_steps * sum(rounds)
    if every is None:
        times = int(min(_TIMES, _LARGEST_SHARE * meta_training / max(1, one)))
        if not times:
            return None, "none, for it would be over 5 % of this short run; bind validation_every"
        every = math.ceil(num_meta_steps / times)
    validation = Validation(families, learned_opt, every, seeds)
    share = math.ceil(num_meta_steps / every) * one / meta_training
    lengths = " and ".join(f"{length}" for _, length in families.values())
    return validation, (
        f"every {every} meta-steps on {len(seeds)} seeds of {lengths} rounds, in all {share:.1%} "
        "more rounds"
    )
