"""Rounds of one worker as one ordinary optax transformation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from comm_lopt.checks import require_at_least_one
from comm_lopt.optimizers.local_rate import local_rate_of, scaled_by
from comm_lopt.precision import widened

__all__ = ["EveryHStepsState", "every_h_steps"]

PyTree = Any


class EveryHStepsState(NamedTuple):
    """State between steps.

    Attributes:
      inner: state of the inner transformation, which outlives a round.
      outer: state of the outer one.
      start: W at the round's start, like the parameters but of at least float32. Rounded to the
        parameters' own type it is what they were then.
      count: steps done in this round, int32.
      sum_of_values: of the losses of this round's steps that `update` was told, a scalar.
      first_value: that of its first step, a scalar.
    """

    inner: PyTree
    outer: PyTree
    start: PyTree
    count: jax.Array  # type: ignore[assignment]
    sum_of_values: jax.Array
    first_value: jax.Array


def every_h_steps(
    inner: optax.GradientTransformation, outer: optax.GradientTransformation, h: int
) -> optax.GradientTransformationExtraArgs:
    """An inner optimizer whose every h-th step ends with one of an outer optimizer.

    With W_0 the weights at a round's start,

      W_{i+1} = W_i + inner(g_i)  for i = 0 ... h−1,
      Δ = W_0 − W_h,   W_0 ← W_0 + outer(Δ).

    `outer` is any rule of this package, learned ones included, or of optax: `optax.sgd(0.5)` makes
    it Lookahead (Zhang et al. 2019, algorithm 1), `nesterov(0.7, 0.8)` around `optax.adamw` DiLoCo
    with one worker (Thérien et al. 2025), and around SGD or Muon SNOO (Kallusky et al. 2025). A
    rule for K = 1 worker deltas gets Δ as that one, and Δ² as the mean of the workers' squares. If
    `update` is given `value`, the loss of the step, as optax calls it, the rule gets the mean over
    the round as `value` and the first as `start_value`; a rule that steers γ then undoes rounds
    that go wrong (`Steering`).

    The parameters are those that a model trains with and are saved as they are. The updates
    must be applied as they come, so that learning rates, schedules and weight decay stand inside
    `inner` or `outer`.

    Args:
      inner: optimizer of every step; gets gradients and whatever else `update` is given.
      outer: optimizer of rounds; parameters of low precision are float32 for it.
      h: steps in a round.

    Raises:
      ValueError: h below 1; by `update`: no parameters.
      TypeError: h is no integer, or one of the two is no optax transformation.
    """
    h = require_at_least_one("h", h, "steps in a round")
    for name, given in (("inner", inner), ("outer", outer)):
        if not isinstance(given, optax.GradientTransformation):
            raise TypeError(
                f"{name}={given!r} is not an optax.GradientTransformation; pass for example "
                "optax.adamw(1e-3), or LOptA().transformation(theta)."
            )
    inner = optax.with_extra_args_support(inner)
    outer = optax.with_extra_args_support(outer)

    def init(params: PyTree) -> EveryHStepsState:
        start = jax.tree.map(widened, params)
        # An array each, since states are donated.
        return EveryHStepsState(
            inner.init(params), outer.init(start), start, jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32),
        )  # fmt: skip

    def update(
        gradient: PyTree, state: EveryHStepsState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, EveryHStepsState]:
        if params is None:
            raise ValueError("every_h_steps needs params; pass update(gradient, state, params).")
        steering = scaled_by(inner, local_rate_of(state.outer))
        steps, inner_state = steering.update(gradient, state.inner, params, **extra)
        total, first, losses = state.sum_of_values, state.first_value, {}
        if extra.get("value") is not None:
            value = jnp.asarray(extra["value"], jnp.float32)
            begins = state.count == 0
            total = jnp.where(begins, value, total + value)
            first = jnp.where(begins, value, first)
            losses = {"value": total / h, "start_value": first}

        def end_of_round(steps: PyTree, outer_state: PyTree, start: PyTree) -> tuple:
            now = optax.apply_updates(params, steps)
            # From what the parameters were, which is not all that `start` knows: where no step
            # moved anything, Δ is 0.
            delta = jax.tree.map(
                lambda p, w, begin: widened(begin.astype(p.dtype)) - widened(w),
                params,
                now,
                start,
            )
            workers = jax.tree.map(lambda d: d[None], delta)
            squares = jax.tree.map(jnp.square, delta)
            outer_steps, outer_state = outer.update(
                delta, outer_state, start, worker_deltas=workers, worker_squares=squares, **losses
            )
            wanted = optax.apply_updates(start, outer_steps)
            steps = jax.tree.map(
                lambda p, w, u: _step_to(p, w).astype(u.dtype), params, wanted, steps
            )
            start = jax.tree.map(_reached, optax.apply_updates(params, steps), wanted)
            return steps, outer_state, start

        def within_round(*same: PyTree) -> tuple:
            return same

        count = state.count + 1
        ends = count == h
        steps, outer_state, start = jax.lax.cond(
            ends, end_of_round, within_round, steps, state.outer, state.start
        )
        count = jnp.where(ends, 0, count)
        return steps, EveryHStepsState(inner_state, outer_state, start, count, total, first)

    return optax.GradientTransformationExtraArgs(init, update)


def _step_to(param: jax.Array, wanted: jax.Array) -> jax.Array:
    """What brings a parameter to the rounded `wanted`."""
    return widened(wanted.astype(param.dtype)) - widened(param)


def _reached(param: jax.Array, wanted: jax.Array) -> jax.Array:
    """`wanted`, or where a step could not bring a parameter to it, what the parameter is."""
    return jnp.where(wanted.astype(param.dtype) == param, wanted, widened(param))
