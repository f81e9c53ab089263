"""LOpt-A and LOpt: learned optimizers that see the workers' mean Δ."""

from __future__ import annotations

from typing import Any

import gin

from comm_lopt.optimizers.learned.ada_features import AdaFeatures
from comm_lopt.optimizers.learned.momentum_features import MomentumFeatures
from comm_lopt.optimizers.learned.multiplicative import MultiplicativeRule

__all__ = ["LOpt", "LOptA"]


@gin.configurable(module="comm_lopt")
class LOptA(MultiplicativeRule):
    """Ada features of the mean Δ: 28 + 11 inputs, 2,402 MLP weights, 7 decays.

    Works for any K. (Joseph et al. 2025, section 4.1.)

    Args:
      features: the feature set with its decays; `AdaFeatures()` if None.
      **sizes: see `MultiplicativeRule`.
    """

    feature_set = AdaFeatures

    def __init__(self, features: AdaFeatures | None = None, **sizes: Any):
        super().__init__(features, None, **sizes)


@gin.configurable(module="comm_lopt")
class LOpt(MultiplicativeRule):
    """Momentum features of the mean Δ: 8 + 11 inputs; LOpt-A's ablation.

    Args:
      features: the feature set with its decays; `MomentumFeatures()` if None.
      **sizes: see `MultiplicativeRule`.
    """

    feature_set = MomentumFeatures

    def __init__(self, features: MomentumFeatures | None = None, **sizes: Any):
        super().__init__(features, None, **sizes)
