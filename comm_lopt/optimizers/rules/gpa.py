"""Generalized primal averaging: Nesterov's two interpolations, each with its own constant."""

from __future__ import annotations

from typing import Any, NamedTuple

import gin
import jax
import optax

from comm_lopt.checks import require_range

__all__ = ["GPAState", "gpa"]

PyTree = Any


class GPAState(NamedTuple):
    """State between rounds.

    Attributes:
      gap: x − z, like the parameters.
    """

    gap: PyTree


@gin.configurable("GPA", module="comm_lopt")
def gpa(
    learning_rate: Any = 1.0, train_interp_coeff: Any = 0.7, eval_interp_coeff: Any = 0.9
) -> optax.GradientTransformationExtraArgs:
    """Generalized primal averaging of rounds (Defazio et al. 2025).

    The paper has three sequences, equal at the start: z takes the base optimizer's steps, x
    averages z, and y, between them, is where gradients are taken:

      y = μ_y x + (1 − μ_y) z;  z ← z − α step(y);  x ← μ_x x + (1 − μ_x) z.

    Here the weights are y, where the rounds start, and a base step is a whole round: step(y) = Δ.
    Only d = x − z needs to be kept:

      d' = μ_x (d + α Δ);  y ← y − α Δ + μ_y (d' − d);  d = d'.

    The paper evaluates x = y + (1 − μ_y) d and finds that y often does as well. Its code has
    μ_y = 0.7 and μ_x = 0.9967 for each step of AdamW, a thirty-second of a round by its
    correspondence to DiLoCo's local steps; 0.9967^32 = 0.9. A constant Δ moves y by α Δ.
    μ_x = μ_y = μ is `nesterov` with that momentum and learning rate α (1 − μ), DiLoCo's being
    α = 7 and μ = 0.9; μ_x = 0 is `outer_sgd`.

    Args:
      learning_rate: α, above 0.
      train_interp_coeff: μ_y, in [0, 1].
      eval_interp_coeff: μ_x, in [0, 1).

    Raises:
      ValueError: an argument outside its interval.
    """
    require_range("learning_rate", learning_rate, 0.0, exclude_low=True)
    require_range("train_interp_coeff", train_interp_coeff, 0.0, 1.0)
    require_range("eval_interp_coeff", eval_interp_coeff, 0.0, 1.0, exclude_high=True)

    def init(params: PyTree) -> GPAState:
        return GPAState(optax.tree.zeros_like(params))

    def update(delta: PyTree, state: GPAState, params: PyTree = None) -> tuple[PyTree, GPAState]:
        del params
        gap = jax.tree.map(
            lambda d, g: eval_interp_coeff * (d + learning_rate * g), state.gap, delta
        )
        updates = jax.tree.map(
            lambda g, new, old: train_interp_coeff * (new - old) - learning_rate * g,
            delta,
            gap,
            state.gap,
        )
        return updates, GPAState(gap)

    return optax.with_extra_args_support(optax.GradientTransformation(init, update))
