"""What passes from a round to the rule and to the next round: it travels as model state."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["RoundState", "between_rounds", "model_state_of", "round_state"]

PyTree = Any


class RoundState(NamedTuple):
    """Model state, and what a round hands on beside it.

    Worker deltas, squares, weights and the loss at the start exist only between the task's loss and
    the rule's update: they are never stored. Only `model_state` is evaluated.

    Attributes:
      model_state: the inner task's model state, a tree of arrays, merged over workers.
      worker_deltas: like the parameters with a leading K; before − after of each worker.
      worker_weights: [K], 0 for a worker that was absent; None where all take part in all rounds.
      local_opt_states: a tree of arrays [K, ...]: local optimizer states that outlive a round.
      worker_squares: like the parameters; the (weighted) mean over workers of the squares of
        their deltas.
      local_rate: a scalar that γ is multiplied by, where the rule steers it.
      residuals: what error feedback has not sent yet, trees of [K, ...] and of [1, ...]; see
        `Compression`.
      start_loss: the training loss at the round's start, a scalar, where the rule steers γ.
    """

    model_state: PyTree
    worker_deltas: PyTree = None
    worker_weights: PyTree = None
    local_opt_states: PyTree = None
    worker_squares: PyTree = None
    local_rate: PyTree = None
    residuals: PyTree = None
    start_loss: PyTree = None


def round_state(state: PyTree) -> RoundState:
    """A model state as a `RoundState`, if it is none yet."""
    return state if isinstance(state, RoundState) else RoundState(state)


def model_state_of(state: PyTree) -> PyTree:
    """The inner task's model state alone."""
    return round_state(state).model_state


def between_rounds(state: PyTree, local_rate: PyTree = None) -> PyTree:
    """What is stored until the next round: no deltas; the model state alone if it is all.

    Args:
      state: model state, or what came back from a round.
      local_rate: see `RoundState`.
    """
    whole = round_state(state)
    kept = RoundState(
        whole.model_state,
        local_opt_states=whole.local_opt_states,
        local_rate=local_rate,
        residuals=whole.residuals,
    )
    return kept.model_state if all(part is None for part in kept[1:]) else kept
