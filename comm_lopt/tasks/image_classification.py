"""Image classification by any network, on any data."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.tasks.supervised import Network, SupervisedTask
from comm_lopt.upstream import TaskFamily, single_task_to_family

__all__ = ["ImageClassificationTask", "image_family"]


class ImageClassificationTask(SupervisedTask):
    """Softmax cross-entropy of a network on images scaled to [0, 1].

    Args:
      datasets: images [N, S, S, C] and labels; `extra_info` has `num_classes` and
        `largest_value`.
      network: from images [B, S, S, C] to logits [B, classes].
      name: the task's name.
    """

    def __init__(self, datasets: ExampleDatasets, network: Network, name: str):
        super().__init__(datasets, network, name)
        self._largest_value: int = datasets.extra_info["largest_value"]

    def inputs_and_targets(self, examples: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Returns images [B, S, S, C], float32 in [0, 1], and labels [B]."""
        return examples["image"].astype(jnp.float32) / self._largest_value, examples["label"]


def image_family(name: str, datasets: ExampleDatasets, network: Network) -> TaskFamily:
    """The task family of one `ImageClassificationTask`."""
    return single_task_to_family(ImageClassificationTask(datasets, network, name))
