"""Nesterov momentum on the pseudo-gradient: the outer step of DiLoCo and its kin."""

from __future__ import annotations

from typing import Any

import gin
import optax

from comm_lopt.checks import require_range

__all__ = ["nesterov"]


@gin.configurable("Nesterov", module="comm_lopt")
def nesterov(
    learning_rate: Any = 0.7, momentum: Any = 0.9
) -> optax.GradientTransformationExtraArgs:
    """b ← μ b + Δ;  W ← W − η (μ b + Δ), with b = 0 at the start, as PyTorch's Nesterov SGD.

    What is published under which name (K workers, H local steps, each worker's optimizer state
    kept from round to round):

      DiLoCo (Douillard et al. 2023, algorithm 1): AdamW inside, H = 500, η = 0.7, μ = 0.9.
      MuLoCo (Thérien et al. 2025): Muon inside, H = 30; one worker η = 0.7, μ = 0.6, and
        for DiLoCo with one worker η = 0.7, μ = 0.8.
      SNOO (Kallusky et al. 2025): one worker, AdamW or Muon inside; for a model of 125M
        parameters 100 local steps, η = 0.8, μ = 0.75.

    Args:
      learning_rate: η, above 0.
      momentum: μ, in [0, 1).

    Raises:
      ValueError: an argument outside its interval.
    """
    require_range("learning_rate", learning_rate, 0.0, exclude_low=True)
    require_range("momentum", momentum, 0.0, 1.0, exclude_high=True)
    return optax.sgd(learning_rate, momentum, nesterov=True)
