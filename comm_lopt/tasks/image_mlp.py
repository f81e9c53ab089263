"""Multilayer perceptrons that classify images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gin
import haiku as hk
import jax
import jax.numpy as jnp
import optax

from comm_lopt.checks import require_at_least_one
from comm_lopt.data.device import DeviceDatasets
from comm_lopt.data.digits import digits_datasets
from comm_lopt.upstream import Task, TaskFamily, single_task_to_family

__all__ = ["ImageMLPTask", "digits_mlp"]

PyTree = Any


class ImageMLPTask(Task):
    """Softmax cross-entropy of an MLP with ReLU on flattened images scaled to [0, 1].

    Batches are indices into device-resident data; the images are gathered inside the loss.

    Args:
      datasets: images and labels; `extra_info` has `num_classes` and `largest_value`.
      hidden_sizes: widths of the hidden layers.
      name: the task's name.

    Raises:
      ValueError: a width below 1.
    """

    def __init__(self, datasets: DeviceDatasets, hidden_sizes: Sequence[int], name: str):
        for size in hidden_sizes:
            require_at_least_one("hidden_sizes", size, "hidden units")
        self.datasets = datasets
        self._name = name
        self._num_classes: int = datasets.extra_info["num_classes"]
        self._largest_value: int = datasets.extra_info["largest_value"]
        self._model: Any = hk.without_apply_rng(
            hk.transform(lambda x: hk.nets.MLP([*hidden_sizes, self._num_classes])(x))
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
        flat = images.reshape(images.shape[0], -1)
        return flat.astype(jnp.float32) / self._largest_value


@gin.configurable(module="comm_lopt")
def digits_mlp(
    hidden_sizes: Sequence[int] = (32,), datasets: DeviceDatasets | None = None
) -> TaskFamily:
    """An MLP 64-32-10 on scikit-learn's 8×8 digits.

    Args:
      hidden_sizes: widths of the hidden layers.
      datasets: `digits_datasets()` with its gin bindings if None.
    """
    if datasets is None:
        datasets = digits_datasets()
    return single_task_to_family(ImageMLPTask(datasets, hidden_sizes, "digits_mlp"))
