"""Data sets that stay in files or host memory; batches are read ahead of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.feeding.examples import SPLITS, Examples
from comm_lopt.data.feeding.samplers import BatchSource

__all__ = ["StreamDatasets"]


class StreamDatasets(ExampleDatasets):
    """Batches are examples: arrays [B, ...] by key, taken on the host.

    Args:
      examples: what the data set holds; its arrays may be memory-mapped files of any size.
      batch_size: B.
      seed: seed of the order of the examples.
      extra_info: what upstream keeps there, such as `num_classes`.

    Raises:
      ValueError: the training split is smaller than one batch.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        seed: int = 0,
        extra_info: Mapping[str, Any] | None = None,
    ):
        sources = {}
        offset = 0
        for name in SPLITS:
            arrays = examples.splits[name]
            # Positions count as they do on the device, so that both draw the same.
            order = examples.sampler(name, offset, batch_size, seed)
            sources[name] = _HostSource(examples, arrays, order, offset)
            offset += len(next(iter(arrays.values())))
        abstract = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype),
            sources["train"].batch(np.zeros(batch_size, np.int32)),
        )
        super().__init__(examples, sources, extra_info, abstract)

    def gather(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns `batch`, which holds the examples already: arrays [B, ...] by key."""
        return batch

    def on_host(self, split: str, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns `batch`, which holds the examples already: arrays [..., B, ...] by key."""
        del split
        return batch

    def _batch_at(self, split: str, positions: np.ndarray) -> dict[str, np.ndarray]:
        return self.examples.take(self.examples.splits[split], positions)


class _HostSource(BatchSource):
    """Takes the examples at the positions that an order draws, counted from `offset`."""

    def __init__(
        self,
        examples: Examples,
        arrays: Mapping[str, np.ndarray],
        order: BatchSource,
        offset: int,
    ):
        self._examples, self._arrays, self.order = examples, arrays, order
        self._offset = offset
        self.batch_size = order.batch_size

    @property
    def size(self) -> int:
        return self.order.size

    def batch(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        return self._examples.take(self._arrays, positions)

    def batches(self, first: int, count: int) -> dict[str, np.ndarray]:
        return self.batch(self.order.batches(first, count).astype(np.int64) - self._offset)

    def __next__(self) -> dict[str, np.ndarray]:
        return jax.tree.map(lambda array: array[0], self.take(1))

    def reseeded(self, *use: int) -> _HostSource:
        return self._with(self.order.reseeded(*use))

    def shards(self, num_shards: int, seed: int) -> list[_HostSource]:
        return [self._with(order) for order in self.order.shards(num_shards, seed)]

    def of(self, positions: np.ndarray) -> _HostSource:
        return self._with(self.order.of(positions))

    def _with(self, order: BatchSource) -> _HostSource:
        return _HostSource(self._examples, self._arrays, order, self._offset)
