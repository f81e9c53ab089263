"""EMA-Nesterov: rounds that start ahead, along the mean of the recent steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import gin
import jax
import optax

from comm_lopt.checks import require_range

__all__ = ["EMANesterovState", "ema_nesterov"]

PyTree = Any


class EMANesterovState(NamedTuple):
    """State between rounds.

    Attributes:
      mean_step: m, like the parameters.
    """

    mean_step: PyTree


@gin.configurable("EMANesterov", module="comm_lopt")
def ema_nesterov(lookahead: Any = 0.5, decay: Any = 0.9) -> optax.GradientTransformationExtraArgs:
    """θ⁺ = A(θ + β m);  m ← γ m + (1 − γ)(θ⁺ − θ), with m = 0 at the start (Yau et al. 2026).

    A is the local round. The weights of this transformation are where the rounds start,
    y = θ + β m, so that θ⁺ = y − Δ and θ⁺ − θ = β m − Δ:

      m ← γ m + (1 − γ)(β m − Δ);  y ← y − Δ + β m.

    The paper evaluates θ = y − β m. Its experiments have β = 0.5 and γ of 0.99 to 0.999 with one
    step of Adam, SOAP or Muon as A, and β = 0 in a warm-up and at the end. A round is H such
    steps, whose decay is γ^H (0.995 to the 20th is 0.9). A constant Δ is amplified by
    1 / (1 − β). β = 0 is Local SGD.

    Args:
      lookahead: β, in [0, 1); at 1 the mean step would grow without bound.
      decay: γ, in [0, 1); 0 looks ahead along the last step alone.

    Raises:
      ValueError: an argument outside its interval.
    """
    require_range("lookahead", lookahead, 0.0, 1.0, exclude_high=True)
    require_range("decay", decay, 0.0, 1.0, exclude_high=True)

    def init(params: PyTree) -> EMANesterovState:
        return EMANesterovState(optax.tree.zeros_like(params))

    def update(
        delta: PyTree, state: EMANesterovState, params: PyTree = None
    ) -> tuple[PyTree, EMANesterovState]:
        del params
        step = jax.tree.map(lambda m, d: lookahead * m - d, state.mean_step, delta)
        mean_step = optax.tree.update_moment(step, state.mean_step, decay, 1)
        updates = jax.tree.map(lambda m, d: lookahead * m - d, mean_step, delta)
        return updates, EMANesterovState(mean_step)

    return optax.with_extra_args_support(optax.GradientTransformation(init, update))
