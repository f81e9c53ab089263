"""Local SGD: the next weights are the mean of the workers' weights."""

from __future__ import annotations

import gin
import optax

from comm_lopt.optimizers.hand_designed import HandDesignedOptimizer

__all__ = ["LocalSGD"]


@gin.configurable(module="comm_lopt")
class LocalSGD(HandDesignedOptimizer):
    """W ← W − Δ, the mean of the workers' weights (Stich 2019; FedAvg)."""

    def __init__(self) -> None:
        super().__init__(optax.sgd(1.0))
