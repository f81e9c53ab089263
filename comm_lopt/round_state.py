"""How the worker deltas travel from a task's loss to the optimizer: as model state."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["RoundState", "without_worker_deltas"]

PyTree = Any


class RoundState(NamedTuple):
    """Model state as a task family with `worker_deltas=True` returns it from a round.

    It exists only between the task's loss and the optimizer's update: the optimizer takes
    the deltas out and stores `model_state` alone, so that nothing K times as large as the
    parameters is carried from round to round.

    Attributes:
      model_state: the inner task's model state, merged over workers.
      worker_deltas: like the parameters with a leading K; before − after of each worker.
    """

    model_state: PyTree
    worker_deltas: PyTree


def without_worker_deltas(model_state: PyTree) -> PyTree:
    """Returns what an optimizer stores: the model state without worker deltas."""
    return model_state.model_state if isinstance(model_state, RoundState) else model_state
