"""SGD and AdamW with what every user of them wants: clipping, weight decay, checked arguments."""

from __future__ import annotations

from typing import Any

import jax
import optax

from comm_lopt.checks import require_range

__all__ = ["adamw", "clip", "sgd"]


def clip(clip_norm: Any | None) -> optax.GradientTransformation:
    """Clips the global norm of the gradient to `clip_norm`; None does not clip.

    Raises:
      ValueError: a clip norm not above 0.
    """
    if clip_norm is None:
        return optax.identity()
    require_range("clip_norm", clip_norm, 0.0, exclude_low=True)
    return optax.clip_by_global_norm(clip_norm)


def sgd(
    learning_rate: Any, momentum: Any | None, clip_norm: Any | None, weight_decay: Any
) -> optax.GradientTransformationExtraArgs:
    """b ← β b + clip(g) + λ W;  W ← W − η b, as PyTorch's SGD.

    Args:
      learning_rate: η, at least 0.
      momentum: β, in [0, 1); None keeps no buffer.
      clip_norm: largest global norm of g; None does not clip.
      weight_decay: λ, at least 0.

    Raises:
      ValueError: an argument outside its interval.
    """
    require_range("learning_rate", learning_rate, 0.0)
    require_range("weight_decay", weight_decay, 0.0)
    if momentum is not None:
        require_range("momentum", momentum, 0.0, 1.0, exclude_high=True)
    # An array may be traced, so only of a number can it be known that there is no decay.
    decays = isinstance(weight_decay, jax.Array) or weight_decay
    return optax.chain(
        clip(clip_norm),
        optax.add_decayed_weights(weight_decay) if decays else optax.identity(),
        optax.sgd(learning_rate, momentum),
    )


def adamw(
    learning_rate: Any,
    b1: Any,
    b2: Any,
    epsilon: Any,
    clip_norm: Any | None,
    weight_decay: Any,
) -> optax.GradientTransformationExtraArgs:
    """Adam on clip(g) with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2).

    m ← β₁ m + (1 − β₁) g;  v ← β₂ v + (1 − β₂) g²;
    W ← W − η (m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε) + λ W).

    The decay is multiplied by η, as in PyTorch and optax.

    Args:
      learning_rate: η, at least 0.
      b1: β₁, in [0, 1).
      b2: β₂, in [0, 1).
      epsilon: ε, at least 0.
      clip_norm: largest global norm of g; None does not clip.
      weight_decay: λ, at least 0.

    Raises:
      ValueError: an argument outside its interval.
    """
    require_range("learning_rate", learning_rate, 0.0)
    require_range("b1", b1, 0.0, 1.0, exclude_high=True)
    require_range("b2", b2, 0.0, 1.0, exclude_high=True)
    require_range("epsilon", epsilon, 0.0)
    require_range("weight_decay", weight_decay, 0.0)
    return optax.chain(
        clip(clip_norm),
        optax.adamw(learning_rate, b1, b2, epsilon, weight_decay=weight_decay),
    )
