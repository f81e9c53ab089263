"""Vision transformers in the sizes of DeiT."""

from __future__ import annotations

import haiku as hk
import jax
import jax.numpy as jnp

from comm_lopt.checks import require_at_least_one
from comm_lopt.tasks.networks.attention import (
    check_heads,
    layer_norm,
    learned_positions,
    transformer_block,
)
from comm_lopt.tasks.supervised import Network

__all__ = ["vit"]


def vit(width: int, num_layers: int, num_heads: int, patch_size: int) -> Network:
    """A vision transformer with a class token (Dosovitskiy et al. 2021).

    DeiT-tiny (Touvron et al. 2021, without distillation) has width 192, 12 layers and 3 heads,
    DeiT-small width 384 and 6 heads.

    Args:
      width: size of a token.
      num_layers: number of blocks.
      num_heads: heads of each; divides the width.
      patch_size: pixels along a side of a patch; divides the image's.

    Returns:
      A network from images [B, S, S, C] to logits [B, classes].

    Raises:
      ValueError: a number below 1, heads that do not divide the width, or (when the network
        first sees an image) a patch size that does not divide the image's.
    """
    require_at_least_one("num_layers", num_layers, "blocks")
    require_at_least_one("patch_size", patch_size, "pixels along a patch's side")
    check_heads(width, num_heads)

    def network(images: jax.Array, num_classes: int, is_training: bool) -> jax.Array:
        del is_training
        size = images.shape[1]
        if size % patch_size:
            raise ValueError(
                f"patch_size={patch_size} does not divide images of {size} pixels; pass one that "
                "does."
            )
        patches = hk.Conv2D(width, patch_size, stride=patch_size, padding="VALID")(images)
        tokens = patches.reshape(images.shape[0], -1, width)
        first = hk.get_parameter("class_token", [1, 1, width], jnp.float32, jnp.zeros)
        first = jnp.broadcast_to(first, (tokens.shape[0], 1, width))
        x = jnp.concatenate([first, tokens], axis=1)
        x = x + learned_positions(x.shape[1], width)
        for _ in range(num_layers):
            x = transformer_block(x, num_heads, mask=None)
        return hk.Linear(num_classes)(layer_norm(x)[:, 0])

    return network
