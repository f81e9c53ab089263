"""Tasks on the union of the workers' batches: one gradient, as if all were one machine."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from comm_lopt.precision import widened
from comm_lopt.tasks.averages import mean_over_workers, weighted_mean
from comm_lopt.tasks.local_round import RoundOutput, WorkersOutput
from comm_lopt.upstream import Task

__all__ = ["UnionTask", "by_step", "evaluate_round", "gradient_of_each", "union_gradient"]

PyTree = Any


class UnionTask(Task):
    """A task whose batch is K batches [K, B, ...], one of each worker.

    Its loss is their (weighted) mean, and so is its gradient; BatchNorm's statistics are those of
    each batch, as they are in data-parallel training, and are averaged.

    Args:
      inner: the task.
      num_batches: K.
      weights: [K]; see `local_round`.
    """

    def __init__(self, inner: Task, num_batches: int, weights: jax.Array | None = None):
        self.inner = inner
        self._num_batches = num_batches
        self._weights = weights

    def loss_with_state(
        self, params: PyTree, state: PyTree, key: jax.Array, data: PyTree
    ) -> tuple[jax.Array, PyTree]:
        """Mean loss of the K batches, and the mean of the K model states."""
        keys = jax.random.split(key, self._num_batches)
        one = jax.vmap(self.inner.loss_with_state, in_axes=(None, None, 0, 0))
        losses, states = one(params, state, keys, data)
        return weighted_mean(losses, self._weights), mean_over_workers(states, self._weights)


def union_gradient(
    task: Task,
    params: PyTree,
    model_state: PyTree,
    key: jax.Array,
    batches: PyTree,
    num_workers: int,
    num_local_steps: int,
    weights: jax.Array | None = None,
) -> RoundOutput:
    """The gradient at `params` on all examples of a round, as `delta`.

    The K batches of a local step are taken at once and the H steps one after another, so that
    memory does not grow with H.

    Args:
      task: gives `loss_with_state`.
      params: W.
      model_state: the task's model state, or None; every batch starts from it.
      key: random key of the round.
      batches: tree of arrays [K, H, ...].
      num_workers: K.
      num_local_steps: H.
      weights: [K]; see `local_round`.
    """
    union = UnionTask(task, num_workers, weights)
    keys = jax.random.split(key, num_local_steps)
    gradient, losses, states = _mean_gradient(union, params, model_state, keys, by_step(batches))
    return RoundOutput(
        loss=jnp.mean(losses),
        losses=losses[None],
        delta=gradient,
        worker_deltas=None,
        model_state=mean_over_workers(states),
        local_opt_states=None,
    )


def gradient_of_each(
    task: Task,
    params: PyTree,
    model_state: PyTree,
    key: jax.Array,
    batches: PyTree,
    num_workers: int,
    num_local_steps: int,
) -> WorkersOutput:
    """What `union_gradient` is the mean of: each worker's gradient, as its `deltas`.

    Workers that do not share a device each have their own; arguments as for `union_gradient`.
    """
    keys = jax.random.split(key, num_local_steps)
    keys = jax.vmap(lambda k: jax.random.split(k, num_workers))(keys)

    def one_worker(worker_keys: jax.Array, worker_batches: PyTree) -> WorkersOutput:
        gradient, losses, states = _mean_gradient(
            task, params, model_state, worker_keys, worker_batches
        )
        return WorkersOutput(losses, gradient, mean_over_workers(states), None)

    return jax.vmap(one_worker)(jnp.swapaxes(keys, 0, 1), batches)


def _mean_gradient(
    task: Task, params: PyTree, model_state: PyTree, keys: jax.Array, batches: PyTree
) -> tuple[PyTree, jax.Array, PyTree]:
    """Mean gradient at `params` over batches [H, ...], one after another; losses and states, [H].

    Of at least float32.
    """
    loss_and_grad = jax.value_and_grad(task.loss_with_state, has_aux=True)

    def add(total: PyTree, inputs: tuple) -> tuple[PyTree, tuple[jax.Array, PyTree]]:
        (loss, state), gradient = loss_and_grad(params, model_state, *inputs)
        return jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, gradient), (loss, state)

    zeros = jax.tree.map(lambda p: jnp.zeros_like(widened(p)), params)
    total, (losses, states) = jax.lax.scan(add, zeros, (keys, batches))
    return jax.tree.map(lambda t: t / len(keys), total), losses, states


def evaluate_round(
    task: Task,
    params: PyTree,
    model_state: PyTree,
    key: jax.Array,
    batches: PyTree,
    num_workers: int,
    num_local_steps: int,
) -> tuple[jax.Array, PyTree]:
    """Mean loss and mean auxiliary values at `params` over all examples of a round.

    Arguments as for `union_gradient`; `task` gives `loss_with_state_and_aux`.
    """

    def one_batch(key: jax.Array, batch: PyTree) -> tuple[jax.Array, PyTree]:
        loss, _, aux = task.loss_with_state_and_aux(params, model_state, key, batch)
        return loss, aux

    keys = jax.random.split(key, (num_local_steps, num_workers))
    out = jax.lax.map(lambda step: jax.vmap(one_batch)(*step), (keys, by_step(batches)))
    return jax.tree.map(jnp.mean, out)


def by_step(batches: PyTree) -> PyTree:
    """Batches [K, H, ...] as [H, K, ...]."""
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), batches)
