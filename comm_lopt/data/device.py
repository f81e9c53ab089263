"""Data sets that live on the device as arrays; what travels are int32 indices.

A meta-step of the FMNIST problem would ship gigabytes of float images from the host. Here a
batch is a vector of indices, and the task gathers the examples inside its own loss, that is,
inside the local step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from comm_lopt.checks import require_at_least_one, require_choice
from comm_lopt.upstream import Datasets

__all__ = ["SPLITS", "DeviceDatasets", "IndexSampler"]

SPLITS = ("train", "inner_valid", "outer_valid", "test")


class IndexSampler(Iterator[np.ndarray]):
    """Draws batches of indices, epoch by epoch, each epoch in a new random order.

    The order is a function of (seed, epoch) alone, so the position in the data is two
    integers: a checkpoint saves `state` and a resumed run goes on with the very next batch.
    Examples that do not fill a batch at an epoch's end are left out of that epoch.

    Args:
      first: index of the split's first example.
      size: number of examples in the split.
      batch_size: B.
      seed: seed of the order.

    Raises:
      ValueError: fewer examples than one batch, or B below 1.
    """

    def __init__(self, first: int, size: int, batch_size: int, seed: int):
        batch_size = require_at_least_one("batch_size", batch_size, "examples in a batch")
        if size < batch_size:
            raise ValueError(
                f"a split of {size} examples is smaller than one batch of "
                f"batch_size={batch_size}; pass batch_size={max(size, 1)} or less."
            )
        self._first = first
        self._size = size
        self._batch_size = batch_size
        self._seed = seed
        self._batches_per_epoch = size // batch_size
        self.state = 0
        self._order_epoch = -1
        self._order = np.zeros((0, batch_size), np.int32)

    def __next__(self) -> np.ndarray:
        return self.take(1)[0]

    def take(self, num_batches: int) -> np.ndarray:
        """Returns the next `num_batches` batches: int32 [num_batches, B]."""
        parts = []
        while num_batches:
            epoch, position = divmod(self.state, self._batches_per_epoch)
            part = self._epoch_order(epoch)[position : position + num_batches]
            parts.append(part)
            num_batches -= len(part)
            self.state += len(part)
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def reseeded(self, seed: int) -> IndexSampler:
        """A sampler of the same split that starts anew in the order of another seed."""
        return IndexSampler(self._first, self._size, self._batch_size, seed)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if epoch != self._order_epoch:
            generator = np.random.default_rng([self._seed, self._first, epoch])
            order = generator.permutation(self._size)[: self._batches_per_epoch * self._batch_size]
            self._order = (order + self._first).astype(np.int32).reshape(-1, self._batch_size)
            self._order_epoch = epoch
        return self._order


class DeviceDatasets(Datasets):
    """Upstream `Datasets` whose batches are indices into arrays on the device.

    Args:
      splits: for each of `SPLITS` the arrays of that split, [N, ...] each, same keys.
      batch_size: B.
      seed: seed of the order of the examples.
      extra_info: what upstream keeps there, such as `num_classes`.

    Raises:
      ValueError: a split is missing, its arrays disagree in length, or it is smaller than
        one batch. (Held-out splits that are smaller draw batches as large as they are.)
    """

    def __init__(
        self,
        splits: Mapping[str, Mapping[str, np.ndarray]],
        batch_size: int,
        seed: int = 0,
        extra_info: Mapping[str, Any] | None = None,
    ):
        for name in splits:
            require_choice("split", name, SPLITS)
        for name in SPLITS:
            if name not in splits or set(splits[name]) != set(splits["train"]):
                raise ValueError(
                    f"split {name!r} has {sorted(splits.get(name, {}))} and 'train' has "
                    f"{sorted(splits.get('train', {}))}: each of {', '.join(SPLITS)} needs "
                    "arrays under the same keys."
                )
        first = 0
        samplers = {}
        self._ranges: dict[str, tuple[int, int]] = {}
        for name in SPLITS:
            size = _common_length(name, splits[name])
            size_of_batch = batch_size if name == "train" else min(batch_size, max(size, 1))
            samplers[name] = IndexSampler(first, size, size_of_batch, seed)
            self._ranges[name] = (first, size)
            first += size
        # All splits lie in one array per key, so that an index says the split as well.
        self._arrays = {
            key: jnp.asarray(np.concatenate([splits[name][key] for name in SPLITS]))
            for key in splits["train"]
        }
        abstract = jax.ShapeDtypeStruct((batch_size,), np.dtype(np.int32))
        super().__init__(**samplers, extra_info=extra_info, abstract_batch=abstract)

    def gather(self, indices: jax.Array) -> dict[str, jax.Array]:
        """Returns the examples at `indices` ([B] int32): arrays [B, ...] by key."""
        return {key: jnp.take(array, indices, axis=0) for key, array in self._arrays.items()}

    def indices_of(self, split: str) -> np.ndarray:
        """Returns the indices of all examples of a split, int32 [N]."""
        first, size = self._ranges[require_choice("split", split, SPLITS)]
        return np.arange(first, first + size, dtype=np.int32)


def _common_length(split: str, arrays: Mapping[str, np.ndarray]) -> int:
    lengths = {key: len(array) for key, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(
            f"the arrays of split {split!r} have lengths {lengths}; each array needs one row "
            "per example."
        )
    return next(iter(lengths.values()))
