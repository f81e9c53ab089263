"""What takes the local steps: by default SGD with optional clipping and weight decay."""

from __future__ import annotations

from typing import Any

import gin
import optax

from comm_lopt.checks import require_range

__all__ = ["local_sgd"]


@gin.configurable(module="comm_lopt")
def local_sgd(
    learning_rate: Any = 0.1,
    clip_norm: float | None = None,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """SGD for the local steps: W ← W − γ · (clip(g) + λ W).

    Args:
      learning_rate: γ; a number, or a traced scalar in a sweep.
      clip_norm: largest global norm of the gradient; None does not clip. (The paper clips to
        5 in some experiments.)
      weight_decay: λ. (The paper uses 1e-4 in some experiments.)

    Returns:
      An optax transformation; its state is fresh each round.

    Raises:
      ValueError: a negative learning rate or weight decay, or a clip norm not above 0.
    """
    require_range("learning_rate", learning_rate, 0.0)
    require_range("weight_decay", weight_decay, 0.0)
    steps = []
    if clip_norm is not None:
        require_range("clip_norm", clip_norm, 0.0, exclude_low=True)
        steps.append(optax.clip_by_global_norm(clip_norm))
    if weight_decay:
        steps.append(optax.add_decayed_weights(weight_decay))
    return optax.chain(*steps, optax.scale(-learning_rate))
