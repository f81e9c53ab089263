"""Multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence

import haiku as hk
import jax

from comm_lopt.checks import require_at_least_one
from comm_lopt.tasks.supervised import Network

__all__ = ["mlp"]


def mlp(hidden_sizes: Sequence[int]) -> Network:
    """A multilayer perceptron with ReLU on flattened images.

    Args:
      hidden_sizes: widths of the hidden layers; how many there are is the depth.

    Returns:
      A network from images [B, S, S, C] to logits [B, classes].

    Raises:
      ValueError: a width below 1.
    """
    for size in hidden_sizes:
        require_at_least_one("hidden_sizes", size, "hidden units")

    def network(images: jax.Array, num_classes: int, is_training: bool) -> jax.Array:
        del is_training
        return hk.nets.MLP([*hidden_sizes, num_classes])(images.reshape(images.shape[0], -1))

    return network
