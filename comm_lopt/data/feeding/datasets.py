"""The one interface to data: upstream's `Datasets`, and how to get examples out of a batch."""

from __future__ import annotations

import abc
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from comm_lopt.checks import require_at_least_one, require_choice
from comm_lopt.data.feeding.digest import digest_of_arrays
from comm_lopt.data.feeding.examples import SPLITS, Examples
from comm_lopt.data.feeding.samplers import BatchSource, checked_seed
from comm_lopt.upstream import Datasets

__all__ = ["ExampleDatasets"]

PyTree = Any


class ExampleDatasets(Datasets, abc.ABC):
    """Data sets whose batches may be stand-ins for examples.

    Two kinds: `DeviceDatasets`, whose batches are indices into arrays on the device, and
    `StreamDatasets`, whose batches are the examples themselves, read from files.

    Args:
      examples: what the data set holds.
      sources: for each of `SPLITS` where its batches come from.
      extra_info: what upstream keeps there, such as `num_classes`.
      abstract_batch: shapes and types of a batch of training.
    """

    def __init__(
        self,
        examples: Examples,
        sources: Mapping[str, BatchSource],
        extra_info: Mapping[str, Any] | None,
        abstract_batch: PyTree,
    ):
        super().__init__(**sources, extra_info=extra_info, abstract_batch=abstract_batch)
        self.examples = examples

    @abc.abstractmethod
    def gather(self, batch: PyTree) -> dict[str, jax.Array]:
        """Returns the examples of a batch: arrays [B, ...] by key. Runs inside a task's loss."""

    def on_host(self, split: str, batch: PyTree) -> dict[str, np.ndarray]:
        """The examples of a batch (or of several, [..., B]) of a split, taken on the host.

        What comes of it stands for the batch: `gather` returns it as it is. So a process holds the
        examples of its own batches on its devices, and no others.

        Raises:
          TypeError: this kind of data sets cannot.
        """
        raise TypeError(
            f"{type(self).__name__} is for meta-training, where tasks choose among its members; "
            "train on one of them."
        )

    def keep_only(self, sources: Sequence[BatchSource] | None) -> None:
        """Frees the memory of what `on_host` does not need for the training batches of sources.

        Afterwards it is all that the data sets are good for. What lies in files stays there.

        Args:
          sources: parts of the training split; None: all of it.
        """

    @abc.abstractmethod
    def _batch_at(self, split: str, positions: np.ndarray) -> PyTree:
        """Batches [N, B, ...] of the examples at `positions` [N, B] of a split."""

    def abstract_examples(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes [B, ...] and types of the examples of a batch of training, by key."""
        return self._abstract_examples

    @functools.cached_property
    def _abstract_examples(self) -> dict[str, jax.ShapeDtypeStruct]:
        return jax.eval_shape(self.gather, self.abstract_batch)

    def array_of(self, split: str, key: str) -> np.ndarray:
        """Returns the array of a split under `key`, such as the labels: [N, ...] on the host."""
        return np.asarray(self.examples.splits[require_choice("split", split, SPLITS)][key])

    @functools.cached_property
    def digest(self) -> str:
        """Digest of what the data set holds; see `digest_of_arrays`."""
        return digest_of_arrays(self.examples.splits)

    def heldout(
        self, split: str, largest_batch: int, limit: int | None, seed: int = 0
    ) -> list[PyTree]:
        """Returns stacks of batches that together show each example of a split once.

        Stacks are [N, B, ...]: one of whole batches, and what they leave over as another,
        [1, r, ...]. A mean over examples weights each batch by its size; see `size_of`.

        Args:
          split: one of `SPLITS`, also "train".
          largest_batch: B is this, or the number of examples shown if that is smaller.
          limit: of a larger split so many examples, chosen at random; all if None.
          seed: of that choice, which depends on nothing else.

        Raises:
          ValueError: an unknown split, or a `largest_batch` or `limit` below 1.
        """
        count = self._num_shown(require_choice("split", split, SPLITS))
        if limit is not None:
            count = min(count, require_at_least_one("limit", limit, "examples to show"))
        size = min(count, require_at_least_one("largest_batch", largest_batch, "examples"))
        positions = self._positions_shown(split, count, seed)
        whole = count // size * size
        stacks = [self._stack(split, positions[..., :whole], size)]
        if whole < count:
            stacks.append(self._stack(split, positions[..., whole:], count - whole))
        return stacks

    def size_of(self, stack: PyTree) -> int:
        """B, the number of examples of each batch in a stack [N, B, ...] of `heldout`."""
        batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stack)
        return jax.tree.leaves(jax.eval_shape(self.gather, batch))[0].shape[0]

    def _stack(self, split: str, positions: np.ndarray, size: int) -> PyTree:
        batches = positions.reshape(*positions.shape[:-1], -1, size)
        return jax.tree.map(jnp.asarray, self._batch_at(split, np.moveaxis(batches, -2, 0)))

    def _num_shown(self, split: str) -> int:
        """Number of examples that `heldout` shows of a split."""
        return len(self.examples.all_positions(split))

    def _positions_shown(self, split: str, count: int, seed: int) -> np.ndarray:
        """Positions [count] of a split, sorted: all, or a random part."""
        positions = self.examples.all_positions(split)
        if count == len(positions):
            return np.arange(positions.start, positions.stop, positions.step)
        chosen = np.random.default_rng(checked_seed(seed)).choice(
            len(positions), count, replace=False
        )
        return positions.start + positions.step * np.sort(chosen)
