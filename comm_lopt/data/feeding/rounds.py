"""Batches of a round: K·H batches of the inner data set stacked to [K, H, ...]."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.feeding.examples import SPLITS
from comm_lopt.data.feeding.partition import Partition
from comm_lopt.data.feeding.read_ahead import ReadAhead
from comm_lopt.data.feeding.samplers import BatchSource
from comm_lopt.upstream import Datasets

__all__ = ["RoundIterator", "round_datasets"]

PyTree = Any


class RoundIterator(Iterator[Any]):
    """Stacks K·H batches to one tree of arrays [K, H, ...].

    Rounds that can be asked for by number are made in a thread, ahead of who asks for them; see
    `ReadAhead`. The thread starts with the first round, and ends with this object or `close`.

    Args:
      source: the inner iterator, from which all workers draw, or one source for each worker.
      num_workers: K.
      num_local_steps: H.
      workers: those whose batches a round has, [k, H, ...] for k of them; None: all K.

    Attributes:
      state: number of rounds drawn; may be set if `can_seek`.
      can_seek: whether rounds can be asked for by number. Upstream's own iterators cannot.
    """

    def __init__(
        self,
        source: Iterator[Any] | Sequence[BatchSource],
        num_workers: int,
        num_local_steps: int,
        workers: range | None = None,
    ):
        self.source = source
        self._shape = _Shape(num_workers, num_local_steps, workers or range(num_workers))
        self.state = 0
        first = source[0] if isinstance(source, Sequence) else source
        self.can_seek = isinstance(first, BatchSource)
        self._ahead: ReadAhead | None = None

    def round(self, number: int) -> PyTree:
        """Returns the batches of a round, by number: arrays [K, H, ...]."""
        return _round(self.source, self._shape, number)

    def of_workers(self, workers: range) -> RoundIterator:
        """The same rounds from the first on, with the batches of some workers: [k, H, ...].

        Nothing is read for the others.

        Raises:
          TypeError: rounds cannot be asked for by number, and would have to be drawn in full.
        """
        if not self.can_seek:
            raise TypeError(
                f"{type(self.source).__name__} has no order that can be asked for by number, so "
                "that each process would read the examples of all; use comm_lopt's data sets."
            )
        num_workers, num_local_steps, _ = self._shape
        return RoundIterator(self.source, num_workers, num_local_steps, workers)

    def __next__(self) -> PyTree:
        if self.can_seek:
            if self._ahead is None:
                self._ahead = ReadAhead(functools.partial(_round, self.source, self._shape))
            self._ahead.seek(self.state)
            batches = next(self._ahead)
        else:
            batches = self.round(self.state)
        self.state += 1
        return batches

    def close(self) -> None:
        """Ends the thread, if there is one; the next round starts another."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def part_sizes(self) -> list[int] | None:
        """Number of examples (of a text: positions) of each worker; None if all draw from all."""
        if not isinstance(self.source, Sequence):
            return None
        return [source.size for source in self.source]

    def own_sources(self) -> list[BatchSource] | None:
        """What the workers of its rounds draw from; None if all draw from all."""
        if not isinstance(self.source, Sequence):
            return None
        return [self.source[k] for k in self._shape.workers]

    def reseeded(self, *use: int) -> RoundIterator:
        """The rounds from the first on, in an order for one use; see `BatchSource.reseeded`.

        What cannot be replayed (upstream's own iterators) goes on where it stands.
        """
        source = self.source
        if isinstance(source, Sequence):
            source = [s.reseeded(*use) for s in source]
        elif isinstance(source, BatchSource):
            source = source.reseeded(*use)
        return RoundIterator(source, *self._shape)


class _Shape(NamedTuple):
    num_workers: int
    num_local_steps: int
    workers: range


def _round(source: Iterator[Any] | Sequence[BatchSource], shape: _Shape, number: int) -> PyTree:
    num_workers, num_local_steps, workers = shape
    if isinstance(source, Sequence):
        parts = [source[k].batches(number * num_local_steps, num_local_steps) for k in workers]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
    count = len(workers) * num_local_steps
    if isinstance(source, BatchSource):
        first = (number * num_workers + workers.start) * num_local_steps
        stacked = source.batches(first, count)
    else:
        batches = [next(source) for _ in range(count)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *batches)
    leading = (len(workers), num_local_steps)
    return jax.tree.map(lambda leaf: leaf.reshape(leading + leaf.shape[1:]), stacked)


def round_datasets(
    datasets: Datasets | None,
    num_workers: int,
    num_local_steps: int,
    partition: Partition | None = None,
) -> Datasets | None:
    """Returns data sets whose batches are those of a round, in every split.

    Args:
      datasets: the inner ones; None gives None (some synthetic tasks draw their own).
      num_workers: K.
      num_local_steps: H.
      partition: divides the training split among the workers; None lets all draw from all of
        it. Held-out splits are never divided.

    Raises:
      TypeError: a partition of data that is not an `ExampleDatasets`.
      ValueError: a worker's part is smaller than one batch.
    """
    if datasets is None:
        return None
    sources: dict[str, Any] = {name: datasets.split(name) for name in SPLITS}
    if partition is not None:
        if not isinstance(datasets, ExampleDatasets):
            raise TypeError(
                f"partition={partition!r} of {type(datasets).__name__}: only comm_lopt's "
                "DeviceDatasets and StreamDatasets can be divided; leave partition out."
            )
        sources["train"] = partition(datasets, num_workers)
    splits = {
        name: RoundIterator(source, num_workers, num_local_steps)
        for name, source in sources.items()
    }
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((num_workers, num_local_steps, *leaf.shape), leaf.dtype),
        datasets.abstract_batch,
    )
    return Datasets(**splits, extra_info=datasets.extra_info, abstract_batch=abstract)
