"""Data-parallel baselines: one step per communication on the whole K·H·B batch."""

from __future__ import annotations

from typing import Any

import gin
import optax

from comm_lopt.checks import require_range
from comm_lopt.optimizers.hand_designed import HandDesignedOptimizer

__all__ = ["DataParallelAdam", "DataParallelSGD"]


@gin.configurable(module="comm_lopt")
class DataParallelSGD(HandDesignedOptimizer):
    """W ← W − η g, with g the gradient on all K·H·B examples of the round.

    Args:
      learning_rate: η, above 0.

    Raises:
      ValueError: η not above 0.
    """

    def __init__(self, learning_rate: Any = 0.1):
        require_range("learning_rate", learning_rate, 0.0, exclude_low=True)
        super().__init__(optax.sgd(learning_rate))


@gin.configurable(module="comm_lopt")
class DataParallelAdam(HandDesignedOptimizer):
    """Adam (Kingma and Ba 2015) on the gradient of all K·H·B examples of the round.

    Args:
      learning_rate: η, above 0.
      b1: decay of the first moment.
      b2: decay of the second moment.
      epsilon: added to the root of the second moment.

    Raises:
      ValueError: an argument outside its interval.
    """

    def __init__(
        self, learning_rate: Any = 0.01, b1: Any = 0.9, b2: Any = 0.999, epsilon: Any = 1e-8
    ):
        require_range("learning_rate", learning_rate, 0.0, exclude_low=True)
        require_range("b1", b1, 0.0, 1.0, exclude_high=True)
        require_range("b2", b2, 0.0, 1.0, exclude_high=True)
        require_range("epsilon", epsilon, 0.0)
        super().__init__(optax.adam(learning_rate, b1=b1, b2=b2, eps=epsilon))
