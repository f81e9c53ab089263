"""Image classification by any network, on data that lives on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from comm_lopt.data.device import DeviceDatasets
from comm_lopt.upstream import Task

__all__ = ["ImageClassificationTask"]

PyTree = Any


class ImageClassificationTask(Task):
    """Softmax cross-entropy of a network on images scaled to [0, 1].

    Batches are indices into device-resident data; the images are gathered inside the loss.

    Args:
      datasets: images [N, S, S, C] and labels; `extra_info` has `num_classes` and
        `largest_value`.
      network: a Haiku function of images [B, S, S, C] and the number of classes, that returns
        logits [B, classes]; without model state.
      name: the task's name.
    """

    def __init__(
        self,
        datasets: DeviceDatasets,
        network: Callable[[jax.Array, int], jax.Array],
        name: str,
    ):
        self.datasets = datasets
        self._name = name
        self._num_classes: int = datasets.extra_info["num_classes"]
        self._largest_value: int = datasets.extra_info["largest_value"]
        self._model: Any = hk.without_apply_rng(
            hk.transform(lambda images: network(images, self._num_classes))
        )

    @property
    def name(self) -> str:
        return self._name

    def init(self, key: jax.Array) -> PyTree:
        example = self.datasets.gather(jnp.zeros(1, jnp.int32))
        return self._model.init(key, self._inputs(example["image"]))

    def loss(self, params: PyTree, key: jax.Array, data: jax.Array) -> jax.Array:
        """Mean cross-entropy in nats over the batch `data`, indices [B]."""
        return self.loss_and_aux(params, key, data)[0]

    def loss_and_aux(
        self, params: PyTree, key: jax.Array, data: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean cross-entropy, and {"accuracy": fraction classified right}."""
        del key
        batch = self.datasets.gather(data)
        logits = self._model.apply(params, self._inputs(batch["image"]))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        right = jnp.argmax(logits, axis=-1) == batch["label"]
        return jnp.mean(losses), {"accuracy": jnp.mean(right.astype(jnp.float32))}

    def normalizer(self, loss: jax.Array) -> jax.Array:
        """Caps a loss at 1.5 times that of guessing, so that divergence has a finite price."""
        chance = jnp.log(jnp.float32(self._num_classes))
        return jnp.clip(jnp.nan_to_num(loss, nan=jnp.inf), 0.0, 1.5 * chance)

    def _inputs(self, images: jax.Array) -> jax.Array:
        return images.astype(jnp.float32) / self._largest_value
