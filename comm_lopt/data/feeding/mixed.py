"""Several data sets of equal image size side by side, one of which each task uses."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.examples import SPLITS
from comm_lopt.data.feeding.samplers import BatchSource

__all__ = ["MixedDatasets"]


class MixedDatasets(ExampleDatasets):
    """Batches hold a batch of each member, as indices [D, B]; a task takes its own row.

    Images are handed out as floats between 0 and 1, since members may differ in range. Where
    members differ in size, `heldout` shows of each as many examples as the smallest has, chosen
    at random; its stacks are [N, D, B].

    Args:
      members: D data sets on the device, with images of one size and one number of classes.

    Raises:
      ValueError: no members, or members that differ in these or in batch size.
    """

    def __init__(self, members: Sequence[DeviceDatasets]):
        kinds = [
            (m.abstract_examples()["image"].shape, m.extra_info["num_classes"]) for m in members
        ]
        if len(set(kinds)) != 1:
            raise ValueError(
                f"members have (batch of images, classes) {kinds}: there must be at least one, "
                "all with the same; resize the images, or use a list of task families instead."
            )
        self.members = tuple(members)
        sources = {name: _StackedSource([m.split(name) for m in members]) for name in SPLITS}
        batch_size = kinds[0][0][0]
        abstract = jax.ShapeDtypeStruct((len(members), batch_size), np.dtype(np.int32))
        extra_info = {"num_classes": kinds[0][1], "largest_value": 1}
        super().__init__(members[0].examples, sources, extra_info, abstract)

    def gather(self, batch: jax.Array, member: Any = 0) -> dict[str, jax.Array]:
        """Returns the examples that `batch` [D, B] holds for `member`, an integer (traced or not).

        Every member's examples are gathered, and one is selected: under `vmap`, where each task
        has another member, it would come to that anyway.
        """
        images, labels = [], []
        for row, datasets in enumerate(self.members):
            examples = datasets.gather(batch[row])
            scale = jnp.float32(datasets.extra_info["largest_value"])
            images.append(examples["image"].astype(jnp.float32) / scale)
            labels.append(examples["label"])
        return {"image": jnp.stack(images)[member], "label": jnp.stack(labels)[member]}

    @functools.cached_property
    def digest(self) -> str:
        """Digest of those of the members, in their order."""
        return hashlib.sha256(" ".join(m.digest for m in self.members).encode()).hexdigest()

    def _num_shown(self, split: str) -> int:
        return min(m._num_shown(split) for m in self.members)

    def _positions_shown(self, split: str, count: int, seed: int) -> np.ndarray:
        return np.stack([m._positions_shown(split, count, seed) for m in self.members])

    def _batch_at(self, split: str, positions: np.ndarray) -> np.ndarray:
        rows = np.moveaxis(positions, -2, 0)
        batches = [m._batch_at(split, row) for m, row in zip(self.members, rows, strict=True)]
        return np.stack(batches, axis=-2)


class _StackedSource(BatchSource):
    """The batches of several sources, stacked: [count, D, B]."""

    def __init__(self, sources: Sequence[BatchSource]):
        self._sources = sources
        self.batch_size = min(source.batch_size for source in sources)

    @property
    def size(self) -> int:
        return min(source.size for source in self._sources)

    def batches(self, first: int, count: int) -> np.ndarray:
        drawn = [source.batches(first, count)[:, : self.batch_size] for source in self._sources]
        return np.stack(drawn, axis=1)

    def reseeded(self, *use: int) -> _StackedSource:
        return _StackedSource([source.reseeded(*use) for source in self._sources])

    def shards(self, num_shards: int, seed: int) -> list[_StackedSource]:
        shards = [source.shards(num_shards, seed) for source in self._sources]
        return [_StackedSource(parts) for parts in zip(*shards, strict=True)]
