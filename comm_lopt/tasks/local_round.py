"""The one local round: H local steps on each of K workers that do not talk to each other.

Meta-training, meta-testing and a real run all call `local_round`. Workers are mapped with
DrJAX: under a mesh that has an axis named `WORKER_AXIS` they are sharded along it, without
one they are vectorised on the device at hand.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import drjax
import jax
import jax.numpy as jnp
import optax
from jax.experimental import checkify

from comm_lopt.upstream import Task

__all__ = ["WORKER_AXIS", "RoundOutput", "local_round", "mean_over_workers"]

PyTree = Any

WORKER_AXIS = "workers"


class RoundOutput(NamedTuple):
    """What comes back from one local round.

    Attributes:
      losses: [K, H], training loss of each local step, before that step is taken.
      delta: like the parameters; Δ = weights before − weights after, mean over workers.
      worker_deltas: like the parameters with a leading K; before − after of each worker.
      model_state: like the model state; floats averaged over workers, integers kept.
    """

    losses: jax.Array
    delta: PyTree
    worker_deltas: PyTree
    model_state: PyTree


def local_round(
    task: Task,
    params: PyTree,
    model_state: PyTree,
    key: jax.Array,
    batches: PyTree,
    local_opt: optax.GradientTransformation,
    num_workers: int,
    num_local_steps: int,
) -> RoundOutput:
    """Runs H local steps on each of K workers, all from the same weights.

    Worker k starts at W_0 = `params` and takes, for h = 0 ... H−1,

      g = ∇ loss(W_h; batch[k, h]),   W_{h+1} = W_h + local_opt(g),

    and Δ_k = W_0 − W_H. The local optimizer's state is fresh each round. Every worker and
    every local step has its own random key. The steps are scanned, so that compile time does
    not depend on H. (Joseph et al. 2025, algorithm 1, lines 3 to 9.)

    Args:
      task: gives `loss_with_state`.
      params: W_0, a tree of arrays.
      model_state: the task's model state (BatchNorm's averages, ...), or None.
      key: random key of the round.
      batches: tree of arrays [K, H, ...].
      local_opt: optimizer of the local steps.
      num_workers: K.
      num_local_steps: H.

    Returns:
      The round's losses, Δ, worker deltas and new model state.

    Raises:
      ValueError: a leaf of `batches` does not begin with [K, H].
    """
    _check_batches(batches, num_workers, num_local_steps)
    keys = jax.random.split(key, (num_workers, num_local_steps))
    loss_and_grad = jax.value_and_grad(task.loss_with_state, has_aux=True)

    def local_step(carry: tuple, step_input: tuple) -> tuple[tuple, jax.Array]:
        weights, state, opt_state = carry
        step_key, batch = step_input
        (loss, state), grads = loss_and_grad(weights, state, step_key, batch)
        updates, opt_state = local_opt.update(grads, opt_state, weights)
        return (optax.apply_updates(weights, updates), state, opt_state), loss

    def one_worker(worker_keys: jax.Array, worker_batches: PyTree) -> tuple:
        start = (params, model_state, local_opt.init(params))
        # The optimizer may promote a weakly typed leaf; a scan's carry may not change type.
        first = jax.tree.map(lambda leaf: leaf[0], (worker_keys, worker_batches))
        types = jax.eval_shape(local_step, start, first)[0]
        start = jax.tree.map(lambda leaf, t: jnp.asarray(leaf, t.dtype), start, types)
        (weights, state, _), losses = jax.lax.scan(local_step, start, (worker_keys, worker_batches))
        return losses, weights, state

    @drjax.program(placements={WORKER_AXIS: num_workers})
    def all_workers(keys: jax.Array, batches: PyTree) -> RoundOutput:
        # Without a mesh of ours DrJAX looks for one in a deprecated corner of JAX.
        mesh = jax.sharding.get_abstract_mesh()
        losses, weights, states = drjax.map_fn(one_worker, (keys, batches), mesh=mesh)
        # XLA's CPU backend takes the mean of differences eight times slower than of weights.
        delta = jax.tree.map(jnp.subtract, params, drjax.reduce_mean(weights))
        deltas = jax.tree.map(lambda before, after: before[None] - after, params, weights)
        return RoundOutput(losses, delta, deltas, mean_over_workers(states))

    with _no_mesh_is_no_warning():
        return all_workers(keys, batches)


def mean_over_workers(states: PyTree) -> PyTree:
    """Averages the leaves of [K, ...] model states; integer leaves must agree and are kept.

    Integer leaves (step counters and the like) have no meaningful average. They are taken
    from the first worker; that all agree is a `checkify.debug_check`, which costs nothing
    unless the caller asks for it with `checkify.checkify`.
    """

    def merge(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.mean(leaf, axis=0)
        checkify.debug_check(
            jnp.all(leaf == leaf[:1]),
            "workers disagree on an integer leaf of the model state; make it a float, "
            "which is averaged, or keep it the same on every worker",
        )
        return leaf[0]

    return jax.tree.map(merge, states)


def _check_batches(batches: PyTree, num_workers: int, num_local_steps: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(batches):
        if leaf.shape[:2] != (num_workers, num_local_steps):
            raise ValueError(
                f"batch{jax.tree_util.keystr(path)} has shape {leaf.shape}: it must begin with "
                f"[K, H] = [{num_workers}, {num_local_steps}]; take batches from the wrapped "
                "task family's own `datasets`, or stack K x H of the inner ones."
            )


@contextlib.contextmanager
def _no_mesh_is_no_warning() -> Iterator[None]:
    """Drops DrJAX's two warnings that no mesh is set: on one device that is the normal case."""

    def keep(record: logging.LogRecord) -> bool:
        about_mesh = record.getMessage().startswith(("No mesh containing", "No mesh axis named"))
        return not (about_mesh and jax.sharding.get_abstract_mesh().empty)

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
