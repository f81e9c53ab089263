"""The short run that a card records, done again."""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp

from comm_lopt.data.sources.digits import digits_datasets
from comm_lopt.meta_test.problem import Problem
from comm_lopt.meta_test.runs import advance_run, chunks_of_rounds, start_run
from comm_lopt.methods import LOCAL_LEARNING_RATE, learned
from comm_lopt.pretrained.card import CheckRun
from comm_lopt.tasks.digits import digits_mlp
from comm_lopt.upstream import LearnedOptimizer

__all__ = ["check_losses"]

PyTree = Any


def check_losses(learned_opt: LearnedOptimizer, theta: PyTree, check: CheckRun) -> list[float]:
    """Training losses of the rounds of a check run, [T].

    They are those of the card but for how a machine rounds: within 1e-4 of their size in the
    package's tests.

    Args:
      learned_opt: the optimizer.
      theta: its meta-parameters.
      check: the run; its losses do not matter.
    """
    problem = Problem(
        digits_mlp((check.hidden_size,), digits_datasets(check.batch_size, seed=0)),
        check.num_workers,
        check.num_local_steps,
        check.num_rounds,
    )
    with contextlib.closing(problem.rounds().reseeded(check.seed)) as rounds:
        _, batches = next(chunks_of_rounds([rounds], [check.num_rounds]))
    key = jax.random.PRNGKey(check.seed)

    # Theta and γ are arguments, so that thetas of one rule share a program.
    @jax.jit
    def losses(theta: PyTree, rate: jax.Array, batches: PyTree) -> jax.Array:
        method = learned(learned_opt, theta, local_opt=check.local_optimizer)
        family, opt = method.build(problem, {LOCAL_LEARNING_RATE: rate})
        start = start_run(family, opt, check.num_rounds, key)
        return advance_run(family, opt, key, start, jnp.zeros((), jnp.int32), batches)[1]

    rate = jnp.float32(check.local_learning_rate)
    # Whatever an accelerator does with float32 by default.
    with jax.default_matmul_precision("float32"):
        found = losses(theta, rate, jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), batches))
    return [float(loss) for loss in found]
