"""Several data sets of equal image size side by side, one of which each task uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from comm_lopt.data.datasets import ExampleDatasets
from comm_lopt.data.device import DeviceDatasets
from comm_lopt.data.examples import SPLITS
from comm_lopt.data.samplers import BatchSource

__all__ = ["MixedDatasets"]


class MixedDatasets(ExampleDatasets):
    """Batches hold a batch of each member, as indices [D, B]; a task takes its own row.

    Images are handed out as floats between 0 and 1, since members may differ in range.

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

    def heldout(self, split: str, largest_batch: int, limit: int | None) -> jax.Array:
        """Batches [N, D, B]; each member's split, as far as the shortest goes."""
        parts = [m.heldout(split, largest_batch, limit) for m in self.members]
        size = min(part.shape[1] for part in parts)
        flat = [part.reshape(-1)[: part.size // size * size].reshape(-1, size) for part in parts]
        count = min(len(part) for part in flat)
        return jnp.stack([part[:count] for part in flat], axis=1)

    def _batch_at(self, split: str, positions: np.ndarray) -> Any:
        raise NotImplementedError("MixedDatasets has positions of each member only.")


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

    def reseeded(self, seed: int) -> _StackedSource:
        return _StackedSource([source.reseeded(seed) for source in self._sources])

    def shards(self, num_shards: int, seed: int) -> list[_StackedSource]:
        shards = [source.shards(num_shards, seed) for source in self._sources]
        return [_StackedSource(parts) for parts in zip(*shards, strict=True)]
