"""Floats of low precision: bfloat16, float16 and below."""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = ["is_low_precision", "widened"]


def is_low_precision(array: jax.Array) -> bool:
    """Whether it holds floats of fewer than 32 bits."""
    return jnp.issubdtype(array.dtype, jnp.floating) and jnp.finfo(array.dtype).bits < 32


def widened(array: jax.Array) -> jax.Array:
    """Floats of low precision as float32; everything else as it is."""
    return array.astype(jnp.float32) if is_low_precision(array) else array
