"""LAgg-A and LAgg: learned aggregators that see each worker's delta."""

from __future__ import annotations

from typing import Any

import gin

from comm_lopt.optimizers.learned.ada_features import AdaFeatures
from comm_lopt.optimizers.learned.momentum_features import MomentumFeatures
from comm_lopt.optimizers.learned.multiplicative import MultiplicativeRule

__all__ = ["LAgg", "LAggA"]


@gin.configurable(module="comm_lopt")
class LAggA(MultiplicativeRule):
    """Ada features with the K worker deltas as gradient inputs: 27 + K + 11 inputs.

    The accumulators are fed the mean Δ. K is part of theta's shape: 2,626 MLP weights at
    K = 8. The task family must be built with `worker_deltas=True`. (Joseph et al. 2025,
    section 4.2.)

    Args:
      num_workers: K.
      features: the feature set with its decays; `AdaFeatures()` if None.
      **sizes: see `MultiplicativeRule`.
    """

    feature_set = AdaFeatures

    def __init__(self, num_workers: int = 8, features: AdaFeatures | None = None, **sizes: Any):
        super().__init__(features, num_workers, **sizes)


@gin.configurable(module="comm_lopt")
class LAgg(MultiplicativeRule):
    """Momentum features with the K worker deltas as gradient inputs; LAgg-A's ablation.

    Args:
      num_workers: K.
      features: the feature set with its decays; `MomentumFeatures()` if None.
      **sizes: see `MultiplicativeRule`.
    """

    feature_set = MomentumFeatures

    def __init__(
        self, num_workers: int = 8, features: MomentumFeatures | None = None, **sizes: Any
    ):
        super().__init__(features, num_workers, **sizes)
