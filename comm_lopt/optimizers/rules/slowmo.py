"""SlowMo: momentum on the pseudo-gradient."""

from __future__ import annotations

from typing import Any

import gin
import optax

from comm_lopt.checks import require_range

__all__ = ["slowmo"]


@gin.configurable("SlowMo", module="comm_lopt")
def slowmo(
    momentum: Any = 0.9, slow_learning_rate: Any = 1.0
) -> optax.GradientTransformationExtraArgs:
    """u ← β u + Δ/γ;  W ← W − α γ u, with u = 0 at the start (Wang et al. 2020, algorithm 1).

    This is the form of the SlowMo paper. With a constant local learning rate γ it depends on
    γ u alone: v ← β v + Δ, W ← W − α v, which is what is computed, so γ is no argument. The
    form x − α' u in the code of Joseph et al. is the same with α' = α γ. β = 0 with α = 1 is
    Local SGD.

    Args:
      momentum: β, in [0, 1).
      slow_learning_rate: α, above 0.

    Raises:
      ValueError: an argument outside its interval.
    """
    require_range("momentum", momentum, 0.0, 1.0, exclude_high=True)
    require_range("slow_learning_rate", slow_learning_rate, 0.0, exclude_low=True)
    return optax.sgd(slow_learning_rate, momentum)
