"""γ that falls in a line over a run, around any rule: local steps as with a schedule."""

from __future__ import annotations

from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import optax

from comm_lopt.checks import require_range
from comm_lopt.optimizers.local_rate import fall_of_round
from comm_lopt.optimizers.rules.nesterov import nesterov

__all__ = ["FallingRateState", "falling_nesterov", "falling_rate"]

PyTree = Any


class FallingRateState(NamedTuple):
    """State of `falling_rate` between rounds.

    Attributes:
      inner: of the rule.
      count: rounds done, int32.
      local_rate: what γ is to be multiplied by in the next round, float32.
      num_rounds: T, float32; 0 where it is not known.
    """

    inner: PyTree
    count: jax.Array  # type: ignore[assignment]
    local_rate: jax.Array
    num_rounds: jax.Array


def falling_rate(
    rule: optax.GradientTransformation, decay: Any = 1.0
) -> optax.GradientTransformationExtraArgs:
    """A rule of Δ, of which local steps are max(1 − t / T, 1 / T)^decay times as long at round t.

    A schedule inside the local optimizer would begin anew in each round where its state does not
    outlive one. This one is of rounds, and the same for all workers; where T is not known, γ stays.

    Args:
      rule: any optax transformation of Δ.
      decay: the power; 0 leaves γ as it is.

    Raises:
      ValueError: a power below 0.
    """
    require_range("decay", decay, 0.0)
    rule = optax.with_extra_args_support(rule)

    def init(params: PyTree) -> FallingRateState:
        # An array each, since states are donated.
        rate, num_rounds = jnp.ones((), jnp.float32), jnp.zeros((), jnp.float32)
        return FallingRateState(rule.init(params), jnp.zeros((), jnp.int32), rate, num_rounds)

    def update(
        delta: PyTree, state: FallingRateState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, FallingRateState]:
        steps, inner = rule.update(delta, state.inner, params, **extra)
        rate = state.local_rate * fall_of_round(state.count, state.num_rounds, decay)
        return steps, FallingRateState(inner, state.count + 1, rate, state.num_rounds)

    return optax.GradientTransformationExtraArgs(init, update)


@gin.configurable("FallingNesterov", module="comm_lopt")
def falling_nesterov(
    learning_rate: Any = 0.7, momentum: Any = 0.9, decay: Any = 1.0
) -> optax.GradientTransformationExtraArgs:
    """`nesterov`, with γ that falls as `falling_rate` says.

    Args:
      learning_rate: η, above 0.
      momentum: μ, in [0, 1).
      decay: the power of the line.

    Raises:
      ValueError: an argument outside its interval.
    """
    return falling_rate(nesterov(learning_rate, momentum), decay)
