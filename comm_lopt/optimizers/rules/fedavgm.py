"""FedAvgM: server momentum."""

from __future__ import annotations

from typing import Any

import gin
import optax

from comm_lopt.checks import require_range

__all__ = ["fedavgm"]


@gin.configurable("FedAvgM", module="comm_lopt")
def fedavgm(learning_rate: Any = 1.0, momentum: Any = 0.9) -> optax.GradientTransformationExtraArgs:
    """v ← β v + Δ;  W ← W − η v, with v = 0 at the start.

    Server momentum (Hsu, Qi and Brown 2019), there with η = 1; the rate η is of Reddi et al. 2021
    (algorithm 1 with SGD and momentum on the server), who publish β = 0.9 and tune η. The
    recursion is SlowMo's; the published values are not.

    Args:
      learning_rate: η, above 0.
      momentum: β, in [0, 1).

    Raises:
      ValueError: an argument outside its interval.
    """
    require_range("learning_rate", learning_rate, 0.0, exclude_low=True)
    require_range("momentum", momentum, 0.0, 1.0, exclude_high=True)
    return optax.sgd(learning_rate, momentum)
