"""The one interface to data: upstream's `Datasets`, and how to get examples out of a batch."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from comm_lopt.checks import require_choice
from comm_lopt.data.examples import SPLITS, Examples
from comm_lopt.data.samplers import BatchSource
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

    @abc.abstractmethod
    def _batch_at(self, split: str, positions: np.ndarray) -> PyTree:
        """Batches [N, B, ...] of the examples at `positions` [N, B] of a split."""

    def abstract_examples(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of the examples of a batch of training."""
        return jax.eval_shape(self.gather, self.abstract_batch)

    def array_of(self, split: str, key: str) -> np.ndarray:
        """Returns the array of a split under `key`, such as the labels: [N, ...] on the host."""
        return np.asarray(self.examples.splits[require_choice("split", split, SPLITS)][key])

    def heldout(self, split: str, largest_batch: int, limit: int | None) -> PyTree:
        """Returns batches [N, B, ...] that show a split once, for evaluation.

        Args:
          split: one of `SPLITS`.
          largest_batch: B is this, or the split's size if that is smaller. What does not fill
            a last batch is left out.
          limit: at most so many examples, evenly spread over the split; all if None.
        """
        positions = self.examples.all_positions(require_choice("split", split, SPLITS))
        if limit is not None and len(positions) > limit:
            spread = np.linspace(0, len(positions), limit, endpoint=False).astype(np.int64)
            positions = positions[spread]
        size = min(largest_batch, len(positions))
        whole = positions[: len(positions) // size * size].reshape(-1, size)
        return jax.tree.map(jnp.asarray, self._batch_at(split, whole))
