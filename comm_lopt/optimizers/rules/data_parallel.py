"""Data-parallel baselines: one step per communication on the whole K·H·B batch."""

from __future__ import annotations

from typing import Any

import gin
import optax

from comm_lopt import gradient_descent
from comm_lopt.checks import require_range

__all__ = ["data_parallel_adam", "data_parallel_sgd", "data_parallel_sgdm"]


@gin.configurable("DataParallelSGD", module="comm_lopt")
def data_parallel_sgd(
    learning_rate: Any = 0.1,
    momentum: Any = 0.0,
    clip_norm: Any | None = None,
    weight_decay: Any = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """b ← β b + clip(g) + λ W;  W ← W − η b, with g the gradient on all K·H·B examples.

    Args:
      learning_rate: η, above 0.
      momentum: β, in [0, 1).
      clip_norm: largest global norm of g; None does not clip.
      weight_decay: λ, at least 0.

    Raises:
      ValueError: an argument outside its interval.
    """
    require_range("learning_rate", learning_rate, 0.0, exclude_low=True)
    return gradient_descent.sgd(learning_rate, momentum, clip_norm, weight_decay)


@gin.configurable("DataParallelSGDM", module="comm_lopt")
def data_parallel_sgdm(
    learning_rate: Any = 0.1,
    momentum: Any = 0.9,
    clip_norm: Any | None = None,
    weight_decay: Any = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """`data_parallel_sgd` with momentum 0.9 unless said otherwise.

    Raises:
      ValueError: an argument outside its interval.
    """
    require_range("learning_rate", learning_rate, 0.0, exclude_low=True)
    return gradient_descent.sgd(learning_rate, momentum, clip_norm, weight_decay)


@gin.configurable("DataParallelAdam", module="comm_lopt")
def data_parallel_adam(
    learning_rate: Any = 0.01,
    b1: Any = 0.9,
    b2: Any = 0.999,
    epsilon: Any = 1e-8,
    clip_norm: Any | None = None,
    weight_decay: Any = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Adam (Kingma and Ba 2015, algorithm 1) on the gradient of all K·H·B examples of the round.

    The weight decay is decoupled, so that with it this is AdamW (Loshchilov and Hutter 2019).

    Args:
      learning_rate: η, above 0.
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      epsilon: added to the root of the second moment, at least 0.
      clip_norm: largest global norm of the gradient; None does not clip.
      weight_decay: λ, at least 0; multiplied by η.

    Raises:
      ValueError: an argument outside its interval.
    """
    require_range("learning_rate", learning_rate, 0.0, exclude_low=True)
    return gradient_descent.adamw(learning_rate, b1, b2, epsilon, clip_norm, weight_decay)
