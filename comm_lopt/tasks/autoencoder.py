"""Images that a narrow network gives back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from comm_lopt.checks import require_at_least_one
from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.upstream import Task

__all__ = ["AutoencoderTask"]

PyTree = Any

_LARGEST_GUESS = 0.25


class AutoencoderTask(Task):
    """Mean squared error of images x in [0, 1] against what an autoencoder makes of them.

    The loss is the mean over images and pixels of (1 / (1 + exp(−f(x))) − x)², where f is an MLP
    with ReLU from the pixels to as many. There are no classes, so no accuracy is reported.

    Args:
      datasets: images [N, S, S, C]; `extra_info` has `largest_value`.
      hidden_sizes: widths of the hidden layers of f.
      name: the task's name.

    Raises:
      ValueError: a width below 1.
    """

    def __init__(self, datasets: ExampleDatasets, hidden_sizes: Sequence[int], name: str):
        for size in hidden_sizes:
            require_at_least_one("hidden_sizes", size, "hidden units")
        self.datasets = datasets
        self._name = name
        num_pixels = math.prod(datasets.abstract_examples()["image"].shape[1:])
        self._model: Any = hk.without_apply_rng(
            hk.transform(lambda pixels: hk.nets.MLP([*hidden_sizes, num_pixels])(pixels))
        )

    @property
    def name(self) -> str:
        """The name that it was given."""
        return self._name

    def init(self, key: jax.Array) -> PyTree:
        """Initial parameters of f: a tree of arrays."""
        image = self.datasets.abstract_examples()["image"]
        return self._model.init(key, jnp.zeros((1, math.prod(image.shape[1:]))))

    def loss(self, params: PyTree, key: jax.Array, data: PyTree) -> jax.Array:
        """A scalar: the loss over the batch `data` ([B] indices, or images [B, S, S, C])."""
        del key
        images = self.datasets.gather(data)["image"]
        pixels = images.reshape(images.shape[0], -1).astype(jnp.float32)
        pixels = pixels / self.datasets.extra_info["largest_value"]
        return jnp.mean(jnp.square(jax.nn.sigmoid(self._model.apply(params, pixels)) - pixels))

    def normalizer(self, loss: jax.Array) -> jax.Array:
        """Caps a loss, a scalar, at 1.5 times the most that 1/2 for every pixel can cost."""
        return jnp.clip(jnp.nan_to_num(loss, nan=jnp.inf), 0.0, 1.5 * _LARGEST_GUESS)
