"""Batches of a round: K·H batches of the inner data set stacked to [K, H, ...]."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from comm_lopt.data.device import SPLITS, IndexSampler
from comm_lopt.upstream import Datasets

__all__ = ["RoundIterator", "round_datasets"]


class RoundIterator(Iterator[Any]):
    """Stacks K·H batches of an iterator to one tree of arrays [K, H, ...].

    Args:
      source: the inner iterator; all workers draw from it (the paper's setting).
      num_workers: K.
      num_local_steps: H.
    """

    def __init__(self, source: Iterator[Any], num_workers: int, num_local_steps: int):
        self.source = source
        self._leading = (num_workers, num_local_steps)

    def __next__(self) -> Any:
        count = self._leading[0] * self._leading[1]
        if isinstance(self.source, IndexSampler):
            # One slice of the epoch's order instead of K·H calls.
            stacked = self.source.take(count)
        else:
            batches = [next(self.source) for _ in range(count)]
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
        return jax.tree.map(lambda leaf: leaf.reshape(self._leading + leaf.shape[1:]), stacked)


def round_datasets(
    datasets: Datasets | None, num_workers: int, num_local_steps: int
) -> Datasets | None:
    """Returns data sets whose batches are those of a round, in every split.

    Returns None if the inner family has no data (some synthetic tasks draw their own).
    """
    if datasets is None:
        return None
    splits = {
        name: RoundIterator(datasets.split(name), num_workers, num_local_steps) for name in SPLITS
    }
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((num_workers, num_local_steps, *leaf.shape), leaf.dtype),
        datasets.abstract_batch,
    )
    return Datasets(**splits, extra_info=datasets.extra_info, abstract_batch=abstract)
