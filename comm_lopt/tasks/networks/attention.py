"""The block that the vision transformer and the language model are made of."""

from __future__ import annotations

import haiku as hk
import jax
import jax.numpy as jnp

__all__ = ["check_heads", "layer_norm", "learned_positions", "transformer_block"]

_INIT = hk.initializers.TruncatedNormal(0.02)


def check_heads(width: int, num_heads: int) -> None:
    """Raises ValueError unless the heads divide the width."""
    if width % num_heads:
        raise ValueError(
            f"width={width} cannot be divided among num_heads={num_heads}; pass a number of heads "
            "that divides the width."
        )


def layer_norm(x: jax.Array) -> jax.Array:
    """LayerNorm over the last axis, with scale and offset."""
    return hk.LayerNorm(axis=-1, create_scale=True, create_offset=True)(x)


def transformer_block(x: jax.Array, num_heads: int, mask: jax.Array | None) -> jax.Array:
    """Pre-norm self-attention and a two-layer GELU perceptron, each added to its input.

    Args:
      x: [B, L, width].
      num_heads: heads, of size width / num_heads.
      mask: bool [1, 1, L, L], which position (row) may look at which; None lets all see all.
    """
    width = x.shape[-1]
    attention = hk.MultiHeadAttention(
        num_heads, key_size=width // num_heads, w_init=_INIT, model_size=width
    )
    h = layer_norm(x)
    x = x + attention(h, h, h, mask)
    h = jax.nn.gelu(hk.Linear(4 * width, w_init=_INIT)(layer_norm(x)))
    return x + hk.Linear(width, w_init=_INIT)(h)


def learned_positions(length: int, width: int) -> jax.Array:
    """A learned vector for each position: [1, length, width]."""
    return hk.get_parameter("positions", [1, length, width], jnp.float32, _INIT)
