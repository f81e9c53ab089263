"""FedAdam and FedYogi: adaptive optimizers on the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import optax

from comm_lopt.checks import require_range

__all__ = ["FedOptState", "fedadam", "fedyogi"]

PyTree = Any


class FedOptState(NamedTuple):
    """State between rounds.

    Attributes:
      first_moment: m, like the parameters.
      second_moment: v, like the parameters.
    """

    first_moment: PyTree
    second_moment: PyTree


@gin.configurable("FedAdam", module="comm_lopt")
def fedadam(
    learning_rate: Any = 0.01, b1: Any = 0.9, b2: Any = 0.99, tau: Any = 1e-3
) -> optax.GradientTransformationExtraArgs:
    """m ← β₁ m + (1 − β₁) Δ;  v ← β₂ v + (1 − β₂) Δ²;  W ← W − η m / (√v + τ).

    Reddi et al. 2021, algorithm 2, FedAdam: τ stands outside the root and no bias is corrected;
    m = 0 and v = τ² at the start (the paper asks for v ≥ τ²). It publishes β₁ = 0.9, β₂ = 0.99
    and τ = 1e-3, and tunes η. Its own experiments ran Keras's Adam, which starts at v = 0 and
    corrects the bias; optax.adam is that.

    Args:
      learning_rate: η, above 0.
      b1: β₁, in [0, 1).
      b2: β₂, in [0, 1).
      tau: τ, above 0; the smaller, the more adaptive.

    Raises:
      ValueError: an argument outside its interval.
    """
    return _fedopt(
        learning_rate, b1, b2, tau, lambda delta, v: b2 * v + (1 - b2) * jnp.square(delta)
    )


@gin.configurable("FedYogi", module="comm_lopt")
def fedyogi(
    learning_rate: Any = 0.01, b1: Any = 0.9, b2: Any = 0.99, tau: Any = 1e-3
) -> optax.GradientTransformationExtraArgs:
    """m ← β₁ m + (1 − β₁) Δ;  v ← v − (1 − β₂) Δ² sign(v − Δ²);  W ← W − η m / (√v + τ).

    Reddi et al. 2021, algorithm 2, FedYogi; start, published values and arguments are those of
    `fedadam`.

    Raises:
      ValueError: an argument outside its interval.
    """

    def second_moment(delta: jax.Array, v: jax.Array) -> jax.Array:
        square = jnp.square(delta)
        return v - (1 - b2) * square * jnp.sign(v - square)

    return _fedopt(learning_rate, b1, b2, tau, second_moment)


def _fedopt(
    learning_rate: Any,
    b1: Any,
    b2: Any,
    tau: Any,
    second_moment: Callable[[jax.Array, jax.Array], jax.Array],
) -> optax.GradientTransformationExtraArgs:
    """Algorithm 2 with `second_moment(Δ, v)` as the next v."""
    require_range("learning_rate", learning_rate, 0.0, exclude_low=True)
    require_range("b1", b1, 0.0, 1.0, exclude_high=True)
    require_range("b2", b2, 0.0, 1.0, exclude_high=True)
    require_range("tau", tau, 0.0, exclude_low=True)

    def init(params: PyTree) -> FedOptState:
        return FedOptState(optax.tree.zeros_like(params), optax.tree.full_like(params, tau**2))

    def update(
        delta: PyTree, state: FedOptState, params: PyTree = None
    ) -> tuple[PyTree, FedOptState]:
        del params
        m = optax.tree.update_moment(delta, state.first_moment, b1, 1)
        v = jax.tree.map(second_moment, delta, state.second_moment)
        updates = jax.tree.map(lambda m, v: -learning_rate * m / (jnp.sqrt(v) + tau), m, v)
        return updates, FedOptState(m, v)

    return optax.with_extra_args_support(optax.GradientTransformation(init, update))
