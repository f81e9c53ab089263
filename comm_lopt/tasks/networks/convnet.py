"""Plain convolutional networks."""

from __future__ import annotations

from collections.abc import Sequence

import haiku as hk
import jax
import jax.numpy as jnp

from comm_lopt.checks import require_at_least_one
from comm_lopt.tasks.supervised import Network

__all__ = ["convnet"]


def convnet(channels: Sequence[int]) -> Network:
    """3×3 convolutions with ReLU, the first with stride 2, then the mean over positions.

    The architecture of upstream's `Conv_*` tasks, such as `Conv_Cifar10_32x64x64`.

    Args:
      channels: channels of each convolution.

    Returns:
      A network from images [B, S, S, C] to logits [B, classes].

    Raises:
      ValueError: no convolution, or one of less than 1 channel.
    """
    if not channels:
        raise ValueError("channels=(): a convnet has at least one convolution; pass (32, 64, 64).")
    for size in channels:
        require_at_least_one("channels", size, "channels")

    def network(images: jax.Array, num_classes: int, is_training: bool) -> jax.Array:
        del is_training
        for layer, size in enumerate(channels):
            images = jax.nn.relu(hk.Conv2D(size, 3, stride=1 if layer else 2)(images))
        return hk.Linear(num_classes)(jnp.mean(images, axis=(1, 2)))

    return network
