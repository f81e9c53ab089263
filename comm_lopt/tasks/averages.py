"""Averages over workers, of arrays [K, ...]."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from comm_lopt.precision import widened
from comm_lopt.tasks.exchange import on_every_device

__all__ = [
    "is_on_one_device",
    "mean_of_squares",
    "mean_over_workers",
    "over_leading_axis",
    "tree_mean",
    "weighted_mean",
]

PyTree = Any

# Beyond so many workers the sum over them is no longer written out term by term.
_MOST_TERMS = 64
# What JAX calls the axis of a `pmap` that names none.
_PMAP_AXIS = "_internal_pmap_axis_name"


def weighted_mean(values: jax.Array, weights: jax.Array | None) -> jax.Array:
    """Σ_k w_k x_k / Σ_k w_k over the leading axis; 0 if all weights are 0.

    What has no weight plays no part, be it not a number.

    Args:
      values: x, [K, ...].
      weights: w, [K]; None for the plain mean.
    """
    count = len(values)
    if weights is None:
        shares: Any = np.full(count, 1 / count, values.dtype)
    else:
        weights = weights.astype(values.dtype)
        total = jnp.sum(weights)
        shares = weights / jnp.where(total > 0, total, 1)
        values = jnp.where(over_leading_axis(weights > 0, values), values, 0)
    if is_on_one_device() and count <= _MOST_TERMS:
        # XLA's CPU backend sums terms that are written out eight times faster than along an axis.
        return sum(share * value for share, value in zip(shares, values, strict=True))
    return jnp.sum(over_leading_axis(shares, values) * values, axis=0)


def mean_of_squares(worker_deltas: PyTree, weights: jax.Array | None = None) -> PyTree:
    """q = Σ_k w_k Δ_k² / Σ_k w_k, of at least float32; 0 if all weights are 0.

    Args:
      worker_deltas: Δ_k, a tree of arrays [K, ...].
      weights: w, [K]; see `weighted_mean`.
    """
    squares = jax.tree.map(lambda d: jnp.square(widened(d)), worker_deltas)
    return jax.tree.map(on_every_device, tree_mean(squares, weights))


def mean_over_workers(states: PyTree, weights: jax.Array | None = None) -> PyTree:
    """Averages the leaves of [K, ...] model states; integer leaves must agree and are kept.

    Integer leaves (step counters and the like) have no meaningful average. They are taken
    from the first worker; that all agree is a `checkify.debug_check`, which costs nothing
    unless the caller asks for it with `checkify.checkify`.

    Args:
      states: leaves [K, ...].
      weights: [K]; see `weighted_mean`. If all are 0, the plain mean is taken.
    """
    if weights is not None:
        weights = jnp.where(jnp.any(weights > 0), weights, jnp.ones_like(weights))

    def merge(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            return weighted_mean(leaf, weights)
        checkify.debug_check(
            jnp.all(leaf == leaf[:1]),
            "workers disagree on an integer leaf of the model state; make it a float, "
            "which is averaged, or keep it the same on every worker",
        )
        return leaf[0]

    return jax.tree.map(merge, states)


def tree_mean(values: PyTree, weights: jax.Array | None) -> PyTree:
    """`weighted_mean` of each leaf, [K, ...]."""
    return jax.tree.map(lambda leaf: weighted_mean(leaf, weights), values)


def over_leading_axis(of_workers: Any, values: jax.Array) -> Any:
    """[K] as it is broadcast over values [K, ...]."""
    return of_workers.reshape(-1, *[1] * (values.ndim - 1))


def is_on_one_device() -> bool:
    """Whether the round is: without a mesh, or on a device of upstream's `pmap` over tasks."""
    return set(jax.sharding.get_abstract_mesh().axis_names) <= {_PMAP_AXIS}
