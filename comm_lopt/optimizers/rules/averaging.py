"""Local SGD: the mean of the workers' weights, or a step towards it of one's own rate."""

from __future__ import annotations

from typing import Any

import gin
import optax

from comm_lopt.checks import require_range

__all__ = ["averaging", "outer_sgd"]


@gin.configurable("LocalSGD", module="comm_lopt")
def averaging() -> optax.GradientTransformationExtraArgs:
    """W ← W − Δ, the mean of the workers' weights.

    Local SGD (Stich 2019, algorithm 1); FedAvg (McMahan et al. 2017, algorithm 1) where Δ is
    weighted by the workers' numbers of examples.
    """
    return optax.sgd(1.0)


@gin.configurable("OuterSGD", module="comm_lopt")
def outer_sgd(learning_rate: Any = 1.0) -> optax.GradientTransformationExtraArgs:
    """W ← W − η Δ: outer SGD with its own rate.

    FedOpt with SGD on the server (Reddi et al. 2021, algorithm 1, η tuned); with one worker and η
    below 1 Lookahead (Zhang et al. 2019, algorithm 1). η = 1 is Local SGD.

    Args:
      learning_rate: η, above 0; above 1 it extrapolates.

    Raises:
      ValueError: η not above 0.
    """
    require_range("learning_rate", learning_rate, 0.0, exclude_low=True)
    return optax.sgd(learning_rate)
