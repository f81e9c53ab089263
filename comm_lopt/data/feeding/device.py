"""Data sets that live on the device as arrays; what travels are int32 indices.

A meta-step of the FMNIST problem would ship gigabytes of float images from the host. Here a
batch is a vector of indices, and the task gathers the examples inside its own loss, that is,
inside the local step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from comm_lopt.checks import require_choice
from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.feeding.examples import SPLITS, Examples
from comm_lopt.data.feeding.samplers import BatchSource

__all__ = ["DeviceDatasets"]

PyTree = Any

_WORD = 4


class DeviceDatasets(ExampleDatasets):
    """Batches are indices (int32 [B]) into arrays on the device.

    Within `data_as_arguments` compiled programs take the arrays as arguments; others each hold a
    copy, and compiling takes longer with it (seconds for some 100 MB). What does not fit into the
    device's memory is for `StreamDatasets`.

    Args:
      examples: what the data set holds.
      batch_size: B.
      seed: seed of the order of the examples.
      extra_info: what upstream keeps there, such as `num_classes`.

    Raises:
      ValueError: the training split is smaller than one batch, or there are more than 2³¹
        rows. (Held-out splits that are smaller draw batches as large as they are.)
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        seed: int = 0,
        extra_info: Mapping[str, Any] | None = None,
    ):
        sources = {}
        self._offsets: dict[str, int] = {}
        offset = 0
        for name in SPLITS:
            sources[name] = examples.sampler(name, offset, batch_size, seed)
            self._offsets[name] = offset
            offset += len(next(iter(examples.splits[name].values())))
        if offset > np.iinfo(np.int32).max:
            raise ValueError(
                f"{offset} rows are more than an int32 index can tell apart; use StreamDatasets."
            )
        # All splits lie in one array per key, so that an index says the split as well.
        self._rows = {
            key: _Rows(np.concatenate([examples.splits[name][key] for name in SPLITS]))
            for key in examples.splits["train"]
        }
        abstract = jax.ShapeDtypeStruct((batch_size,), np.dtype(np.int32))
        super().__init__(examples, sources, extra_info, abstract)

    def gather(self, batch: PyTree) -> dict[str, jax.Array]:
        """Returns the examples at the indices `batch` ([B] int32): arrays [B, ...] by key.

        Examples that were taken already, see `on_host`, are returned as they are.

        Raises:
          ValueError: they were freed, see `keep_only`.
        """
        if isinstance(batch, Mapping):
            return dict(batch)
        if not self._rows:
            raise ValueError(
                "the examples of these data sets were freed for a real run of several processes; "
                "make the data sets anew."
            )
        return self.examples.take(self._rows, batch)

    def on_host(self, split: str, batch: np.ndarray) -> dict[str, np.ndarray]:
        """The examples at indices `batch`, int32 [..., B], of a split: arrays [..., B, ...]."""
        positions = np.asarray(batch) - self._offsets[split]
        return self.examples.take(self.examples.splits[split], positions)

    def keep_only(self, sources: Sequence[BatchSource] | None) -> None:
        """See `ExampleDatasets`; nothing is left on the device."""
        kept: dict[str, Any] = dict(self.examples.splits["train"])
        if sources is not None:
            rows = np.unique(np.concatenate([self.examples.rows_of(s) for s in sources]))
            kept = {key: _KeptRows(array, rows) for key, array in kept.items()}
        # The examples may be those of other data sets too.
        self.examples = copy.copy(self.examples)
        self.examples.splits = {"train": kept}
        for on_device in self._rows.values():
            on_device.free()
        self._rows = {}

    def indices_of(self, split: str) -> np.ndarray:
        """Returns the indices of all examples of a split, int32 [N]."""
        positions = self.examples.all_positions(require_choice("split", split, SPLITS))
        return self._batch_at(split, np.asarray(positions))

    def _batch_at(self, split: str, positions: np.ndarray) -> np.ndarray:
        return (positions + self._offsets[split]).astype(np.int32)


class _Rows:
    """An array [N, ...] on the device, of which rows are taken.

    Rows of bytes are kept as 32-bit words where they fill whole ones: programs that hold them
    compile in half the time, and rows are copied faster.
    """

    def __init__(self, array: np.ndarray):
        self._shape, self._dtype = array.shape[1:], array.dtype
        self._words = array.dtype == np.uint8 and math.prod(self._shape) % _WORD == 0
        if self._words and self._shape:
            array = np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint32)
        self._array = jnp.asarray(array)
        # A mapped `lax.cond`, such as upstream's step or reset, copies all that its branches
        # close over, once for each that it is mapped over; not what is closed over in a jit.
        self._take = jax.jit(self._rows_at)

    def __getitem__(self, indices: jax.Array) -> jax.Array:
        return self._take(indices)

    def free(self) -> None:
        """Gives the memory back, whoever still refers to it."""
        self._array.delete()

    def _rows_at(self, indices: jax.Array) -> jax.Array:
        # Samplers give no index out of range, so none is looked for.
        rows = jnp.asarray(self._array).at[indices].get(mode="promise_in_bounds")
        if self._words and self._shape:
            rows = jax.lax.bitcast_convert_type(rows, np.uint8)
        return rows.reshape(indices.shape + self._shape)


class _KeptRows:
    """A copy of some rows of an array, found by where they lie in the whole.

    Args:
      whole: [N, ...]
      rows: which, sorted.
    """

    def __init__(self, whole: np.ndarray, rows: np.ndarray):
        # Of rows that follow each other the first says where the others are.
        places = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
        self._starts, self._places = rows[places], places
        self._sizes = np.diff(places, append=len(rows))
        self._array = whole[rows]

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        run = np.searchsorted(self._starts, positions, side="right") - 1
        beyond = positions - self._starts[run]
        if np.any((beyond < 0) | (beyond >= self._sizes[run])):
            raise IndexError(f"of {positions.shape} examples some are another process's.")
        return self._array[self._places[run] + beyond]
