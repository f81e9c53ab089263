"""What a feature set is: the inputs of a learned optimizer's per-parameter MLP."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

__all__ = ["TIME_SCALES", "FeatureSet", "decayed_average", "time_features"]

PyTree = Any

TIME_SCALES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000)


class FeatureSet(Protocol):
    """Accumulators of one tensor and the features that they give each of its parameters.

    A tensor has shape `s` of rank 0 to 4. All arrays are float32.
    """

    def num_features(self, num_gradients: int) -> int:
        """Number of features F of a parameter, time features left out.

        Args:
          num_gradients: 1 for the mean Δ, K for the worker deltas.
        """

    def init_theta(self) -> PyTree:
        """Meta-parameters of the features (shifts of the decays), or an empty dict."""

    def init(self, param: jax.Array) -> PyTree:
        """Accumulators of a tensor at the first round: zeros."""

    def update(self, theta: PyTree, accumulators: PyTree, delta: jax.Array) -> PyTree:
        """Accumulators after they took in the mean Δ of shape s."""

    def features(
        self,
        theta: PyTree,
        accumulators: PyTree,
        param: jax.Array,
        delta: jax.Array,
        gradients: jax.Array,
    ) -> jax.Array:
        """Features of every parameter, not yet normalised.

        Args:
          theta: what `init_theta` gave.
          accumulators: after `update` with this round's Δ.
          param: the tensor, shape s.
          delta: mean Δ, shape s.
          gradients: the gradient inputs, [*s, n]: the mean Δ, or the K worker deltas.

        Returns:
          [*s, F] with F = `num_features(n)`.
        """


def time_features(iteration: jax.Array) -> jax.Array:
    """tanh(t / x − 1) for the eleven time scales x = 1, 3, 10 ... 100000, at round t: [11]."""
    scales = jnp.asarray(TIME_SCALES, jnp.float32)
    return jnp.tanh(iteration.astype(jnp.float32) / scales - 1.0)


def decayed_average(decays: jax.Array, average: jax.Array, value: jax.Array) -> jax.Array:
    """a ← β a + (1 − β) x for each of D decays.

    Args:
      decays: β, [D].
      average: a, [*s, D].
      value: x, shape s.

    Returns:
      The new averages, [*s, D].
    """
    decays = jnp.broadcast_to(decays, average.shape)
    return decays * average + (1.0 - decays) * value[..., None]
