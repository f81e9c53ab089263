"""In which order examples are drawn: batch i is a function of a seed and of i alone.

That one property is what checkpoints (a position is a number), read-ahead (later batches can be
made before they are asked for) and fair comparisons (every optimizer sees the same batches) rest
on.
"""

from __future__ import annotations

import abc
import dataclasses
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from comm_lopt.checks import require_at_least_one, require_range

__all__ = ["BatchSource", "IndexSampler", "WindowSampler"]

PyTree = Any


class BatchSource(Iterator[Any], abc.ABC):
    """An iterator over batches that can also be asked for any of them by number.

    Attributes:
      state: number of batches that iterating has drawn; may be set.
      batch_size: B.
    """

    batch_size: int
    state: int = 0

    @abc.abstractmethod
    def batches(self, first: int, count: int) -> PyTree:
        """Returns batches `first` to `first + count − 1`: arrays [count, B, ...].

        Safe to call from several threads.
        """

    @abc.abstractmethod
    def reseeded(self, *use: int) -> BatchSource:
        """The same examples from the first batch on, in an order for one use of them.

        Args:
          *use: numbers from 0 on, such as a run's seed. The order is a function of this source's
            own seed and of them; they take the place of those of an earlier call.

        Raises:
          ValueError: a number below 0.
        """

    @abc.abstractmethod
    def shards(self, num_shards: int, seed: int) -> Sequence[BatchSource]:
        """Disjoint sources of equal size (up to one example) that make up this one."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of positions drawn from."""

    def of(self, positions: np.ndarray) -> BatchSource:
        """The same, drawing from some of the positions only.

        Raises:
          TypeError: this source cannot.
        """
        raise TypeError(
            f"{type(self).__name__} cannot draw from a list of positions; divide it with IIDParts."
        )

    def take(self, count: int) -> PyTree:
        """Returns the next `count` batches: arrays [count, B, ...]."""
        taken = self.batches(self.state, count)
        self.state += count
        return taken

    def __next__(self) -> PyTree:
        return self.take(1)[0]


class IndexSampler(BatchSource):
    """Draws batches of indices, epoch by epoch, each epoch in a new random order.

    The order is a function of (seed, use, first index, epoch). Examples that do not fill a batch
    at an epoch's end are left out of that epoch.

    Args:
      indices: what to draw from, int [N].
      batch_size: B.
      seed: seed of the order.
      use: see `BatchSource.reseeded`.

    Raises:
      ValueError: fewer indices than one batch, B below 1, or a seed below 0.
    """

    def __init__(self, indices: np.ndarray, batch_size: int, seed: int, use: tuple[int, ...] = ()):
        batch_size = require_at_least_one("batch_size", batch_size, "examples in a batch")
        if len(indices) < batch_size:
            raise ValueError(
                f"a split of {len(indices)} examples is smaller than one batch of "
                f"batch_size={batch_size}; pass batch_size={max(len(indices), 1)} or less."
            )
        self.indices = np.asarray(indices, np.int32)
        self.batch_size = batch_size
        self._seeds = _Seeds(seed, use)
        self._batches_per_epoch = len(indices) // batch_size
        self._epoch: tuple[int, np.ndarray] | None = None

    @property
    def size(self) -> int:
        """N."""
        return len(self.indices)

    def batches(self, first: int, count: int) -> np.ndarray:
        """Returns int32 indices of shape [count, B]."""
        parts = []
        while count:
            epoch, position = divmod(first, self._batches_per_epoch)
            part = self._epoch_order(epoch)[position : position + count]
            parts.append(part)
            count -= len(part)
            first += len(part)
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def reseeded(self, *use: int) -> IndexSampler:
        """The same indices in an order for one use; see `BatchSource.reseeded`."""
        return IndexSampler(self.indices, self.batch_size, self._seeds.seed, use)

    def of(self, positions: np.ndarray) -> IndexSampler:
        """Draws from the indices at `positions` ([n], from 0 to N − 1) alone."""
        return IndexSampler(
            self.indices[positions], self.batch_size, self._seeds.seed, self._seeds.use
        )

    def shards(self, num_shards: int, seed: int) -> list[IndexSampler]:
        """Random parts of equal size, up to one index; `seed` decides which."""
        shuffled = np.random.default_rng([seed, self.size]).permutation(self.size)
        return [self.of(np.sort(part)) for part in np.array_split(shuffled, num_shards)]

    def _epoch_order(self, epoch: int) -> np.ndarray:
        cached = self._epoch
        if cached is None or cached[0] != epoch:
            generator = self._seeds.generator(int(self.indices[0]), epoch)
            order = generator.permutation(self.size)[: self._batches_per_epoch * self.batch_size]
            cached = epoch, self.indices[order].reshape(-1, self.batch_size)
            self._epoch = cached
        return cached[1]


class WindowSampler(BatchSource):
    """Draws batches of positions in a text, uniformly and with replacement.

    Batch i is a function of (seed, use, start, i).

    Args:
      start: first position.
      stop: the last position is the one before it.
      batch_size: B.
      seed: seed of the draws.
      use: see `BatchSource.reseeded`.

    Raises:
      ValueError: no position between start and stop, B below 1, or a seed below 0.
    """

    def __init__(
        self, start: int, stop: int, batch_size: int, seed: int, use: tuple[int, ...] = ()
    ):
        self.batch_size = require_at_least_one("batch_size", batch_size, "windows in a batch")
        if stop <= start:
            raise ValueError(
                f"there are {stop - start} positions to draw a window from: the text is shorter "
                "than one window; pass a longer text, a smaller length or fewer workers."
            )
        self.start, self.stop, self._seeds = start, stop, _Seeds(seed, use)
        self._dtype = np.int32 if stop <= np.iinfo(np.int32).max else np.int64

    @property
    def size(self) -> int:
        """Number of positions between start and stop."""
        return self.stop - self.start

    def batches(self, first: int, count: int) -> np.ndarray:
        """Returns int32 positions of shape [count, B] (int64 in a text of more than 2 GB)."""
        rows = [
            self._seeds.generator(self.start, number).integers(
                self.start, self.stop, self.batch_size, dtype=self._dtype
            )
            for number in range(first, first + count)
        ]
        return np.stack(rows)

    def reseeded(self, *use: int) -> WindowSampler:
        """The same positions in an order for one use; see `BatchSource.reseeded`."""
        return WindowSampler(self.start, self.stop, self.batch_size, self._seeds.seed, use)

    def shards(self, num_shards: int, seed: int) -> list[WindowSampler]:
        """Stretches of the text, one after another; `seed` is of no use here."""
        del seed
        ends = np.linspace(self.start, self.stop, num_shards + 1).astype(np.int64).tolist()
        return [
            WindowSampler(start, stop, self.batch_size, self._seeds.seed, self._seeds.use)
            for start, stop in zip(ends[:-1], ends[1:], strict=True)
        ]


def checked_seed(seed: Any) -> int:
    """A seed as NumPy takes it.

    Raises:
      TypeError: no integer.
      ValueError: below 0.
    """
    return operator.index(require_range("seed", seed, 0))


@dataclasses.dataclass(frozen=True)
class _Seeds:
    """What decides an order beside the place in it."""

    seed: int
    use: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", checked_seed(self.seed))
        object.__setattr__(self, "use", tuple(map(checked_seed, self.use)))

    def generator(self, *place: int) -> np.random.Generator:
        # As one list, numbers of different meaning could come to the same: NumPy pads it with
        # zeros. A spawn key is kept apart.
        return np.random.default_rng(
            np.random.SeedSequence(self.seed, spawn_key=(*self.use, *place))
        )
