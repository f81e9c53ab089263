"""What weights are evaluated on: a fixed part of a split, the same for all methods."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.upstream import Datasets, Task

__all__ = ["EvaluationPart", "evaluated", "evaluation_part", "mean_over"]

PyTree = Any

_LARGEST_BATCH = 1000
_BATCHES_OF_AN_ITERATOR = 8


class EvaluationPart(NamedTuple):
    """Stacks of batches [N, B, ...], and the share of all examples that each stack holds."""

    stacks: list[PyTree]
    shares: list[float]


def evaluation_part(datasets: Datasets, split: str, limit: int) -> EvaluationPart:
    """At most `limit` examples of a split, chosen at random if it has more.

    Of upstream's own iterators, which cannot be replayed, the next 8 batches.
    """
    if isinstance(datasets, ExampleDatasets):
        stacks = datasets.heldout(split, _LARGEST_BATCH, limit)
        sizes = [len(jax.tree.leaves(stack)[0]) * datasets.size_of(stack) for stack in stacks]
        return EvaluationPart(stacks, [size / sum(sizes) for size in sizes])
    source = datasets.split(split)
    batches = [next(source) for _ in range(_BATCHES_OF_AN_ITERATOR)]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    return EvaluationPart([stack], [1.0])


def evaluated(
    task: Task,
    params: PyTree,
    model_state: PyTree,
    key: jax.Array,
    parts: Sequence[EvaluationPart],
) -> list[tuple[jax.Array, PyTree]]:
    """For each part the mean loss at `params` and the means of what else the task reports.

    Args:
      task: the inner task.
      params: W.
      model_state: S.
      key: the same for all batches.
      parts: what is shown.
    """

    def one_batch(batch: PyTree) -> tuple[jax.Array, PyTree]:
        loss, _, aux = task.loss_with_state_and_aux(params, model_state, key, batch)
        return loss, aux

    return [mean_over(one_batch, *part) for part in parts]


def mean_over(
    one_batch: Callable[[PyTree], PyTree], stacks: list[PyTree], shares: list[float]
) -> PyTree:
    """The mean over examples of what `one_batch` gives as a mean over a batch."""
    parts = [jax.tree.map(lambda x: x.mean(0), jax.lax.map(one_batch, s)) for s in stacks]
    return jax.tree.map(lambda *means: sum(map(operator.mul, shares, means)), *parts)
