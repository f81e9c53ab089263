"""Prediction of a text's next byte."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from comm_lopt.tasks.supervised import SupervisedTask

__all__ = ["NUM_BYTES", "LanguageModellingTask"]

NUM_BYTES = 256


class LanguageModellingTask(SupervisedTask):
    """Softmax cross-entropy of the next byte at each of the L positions of a window.

    Args:
      datasets: windows of text [B, L + 1]; `extra_info` has `num_classes` = 256.
      network: from bytes [B, L] (int32) to logits [B, L, 256], each of which depends on bytes
        up to its own position alone.
      name: the task's name.
    """

    def inputs_and_targets(self, examples: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Returns bytes [B, L], int32, and those that follow each, [B, L]."""
        text = examples["text"].astype(jnp.int32)
        return text[:, :-1], text[:, 1:]

    def metrics(self, loss: jax.Array, right: jax.Array) -> dict[str, jax.Array]:
        """Scalars: {"accuracy": part of bytes predicted right, "bits_per_byte": loss / ln 2}."""
        return {"accuracy": right, "bits_per_byte": loss / math.log(2.0)}
