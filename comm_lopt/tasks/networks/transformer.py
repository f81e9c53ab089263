"""Decoder-only transformers."""

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

__all__ = ["transformer"]


def transformer(width: int, num_layers: int, num_heads: int) -> Network:
    """A decoder-only transformer with learned positions, pre-norm, and heads of width / heads.

    (Upstream's transformer has heads of size 32 at any width and no positions, so it is not
    used here.)

    Args:
      width: size of a token.
      num_layers: number of blocks.
      num_heads: heads of each; divides the width.

    Returns:
      A network from bytes [B, L] to logits [B, L, classes].

    Raises:
      ValueError: a number below 1, or heads that do not divide the width.
    """
    require_at_least_one("num_layers", num_layers, "blocks")
    check_heads(width, num_heads)

    def network(tokens: jax.Array, num_classes: int, is_training: bool) -> jax.Array:
        del is_training
        length = tokens.shape[1]
        x = hk.Embed(num_classes, width, w_init=hk.initializers.TruncatedNormal(0.02))(tokens)
        x = x + learned_positions(length, width)
        mask = jnp.tril(jnp.ones((1, 1, length, length), bool))
        for _ in range(num_layers):
            x = transformer_block(x, num_heads, mask)
        return hk.Linear(num_classes)(layer_norm(x))

    return network
