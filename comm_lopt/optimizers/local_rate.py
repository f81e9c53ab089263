"""Rules that steer the local learning rate: γ of the next round is a multiple of the user's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

__all__ = [
    "fall_of_round",
    "local_rate_of",
    "scaled_by",
    "share_left",
    "was_undone",
    "with_num_rounds",
]

PyTree = Any

_RATE, _UNDONE, _ROUNDS = "local_rate", "rounds_undone", "num_rounds"


def local_rate_of(state: PyTree) -> jax.Array | None:
    """What the local learning rate is to be multiplied by in the next round; None: nothing says.

    It is the field `local_rate` of the state of a rule, be it alone, inside `optax.chain`, or
    inside another transformation. A loop of one's own asks for it before each round.

    Args:
      state: of an optax transformation, a tree.

    Returns:
      A scalar, or None.

    Raises:
      KeyError: several rules say it.
    """
    return optax.tree.get(state, _RATE)


def was_undone(before: PyTree, after: PyTree) -> jax.Array | None:
    """Whether a rule undid a round, so that all that the round changed is to be as before.

    None where no rule says it; errors are those of `local_rate_of`.

    Args:
      before: state before the round.
      after: state after it.
    """
    count = optax.tree.get(after, _UNDONE)
    return None if count is None else count > optax.tree.get(before, _UNDONE)


def with_num_rounds(state: PyTree, num_rounds: Any) -> PyTree:
    """The state of a rule that is told how many rounds there will be; any other as it is.

    Args:
      state: of an optax transformation, before the first round.
      num_rounds: T, traced or not; None: it is not known.
    """
    if num_rounds is None or optax.tree.get(state, _ROUNDS) is None:
        return state
    return optax.tree.set(state, **{_ROUNDS: jnp.asarray(num_rounds, jnp.float32)})


def share_left(count: jax.Array, num_rounds: jax.Array) -> jax.Array:
    """max(1 − t / T, 1 / T), the share of a run that is left: a scalar; 1 where T is not known.

    Args:
      count: t, rounds done, a scalar.
      num_rounds: T, a scalar; 0 where it is not known.
    """
    least = jnp.where(num_rounds > 0, 1.0 / jnp.maximum(num_rounds, 1.0), 0.0)
    return jnp.maximum(1.0 - count.astype(jnp.float32) * least, least)


def fall_of_round(count: jax.Array, num_rounds: jax.Array, decay: Any) -> jax.Array:
    """What round t, which ends, takes of a γ that goes with `share_left`^decay: a factor, float32.

    Args:
      count: t, rounds done before it, a scalar.
      num_rounds: T, a scalar; 0 where it is not known.
      decay: the power, a scalar.
    """
    before, after = (share_left(t, num_rounds) for t in (count, count + 1))
    return jnp.asarray((after / before) ** decay, jnp.float32)


def scaled_by(
    local_opt: optax.GradientTransformation, rate: jax.Array | None
) -> optax.GradientTransformation:
    """A local optimizer whose every step is `rate` times as long; itself if None.

    Args:
      local_opt: the local optimizer, whose state stays as it is.
      rate: a scalar.
    """
    if rate is None:
        return local_opt
    local_opt = optax.with_extra_args_support(local_opt)

    def update(
        gradient: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        steps, state = local_opt.update(gradient, state, params, **extra)
        return jax.tree.map(lambda step: rate.astype(step.dtype) * step, steps), state

    return optax.GradientTransformationExtraArgs(local_opt.init, update)
