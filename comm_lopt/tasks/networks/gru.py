"""Recurrent networks."""

from __future__ import annotations

import haiku as hk
import jax

from comm_lopt.checks import require_at_least_one
from comm_lopt.tasks.supervised import Network

__all__ = ["gru"]


def gru(width: int) -> Network:
    """A gated recurrent unit (Cho et al. 2014) that reads a window from a state of zero.

    Args:
      width: size of a token and of the state.

    Returns:
      A network from bytes [B, L] to logits [B, L, classes].

    Raises:
      ValueError: a width below 1.
    """
    require_at_least_one("width", width, "units")

    def network(tokens: jax.Array, num_classes: int, is_training: bool) -> jax.Array:
        del is_training
        unit = hk.GRU(width)
        inputs = hk.Embed(num_classes, width)(tokens)
        start = unit.initial_state(tokens.shape[0])
        states, _ = hk.dynamic_unroll(unit, inputs, start, time_major=False)
        return hk.Linear(num_classes)(states)

    return network
