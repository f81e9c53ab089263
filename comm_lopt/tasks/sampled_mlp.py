"""A family of MLPs that differ, task by task, in width, depth and data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gin
import haiku as hk
import jax
import jax.numpy as jnp

from comm_lopt.checks import require_at_least_one
from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.mixed import MixedDatasets
from comm_lopt.data.sources.digits import digits_datasets
from comm_lopt.data.sources.fashion_mnist import fashion_mnist_datasets
from comm_lopt.tasks.supervised import Network, SupervisedTask
from comm_lopt.upstream import TaskFamily

__all__ = ["SampledMLPFamily", "sampled_mlp"]

Config = dict[str, jax.Array]


class SampledMLPFamily(TaskFamily):
    """Draws for each task a width, a depth and a data set.

    Tasks that are trained side by side need arrays of one shape. So every task has the arrays
    of the largest MLP, and uses a part: hidden units beyond its width are held at zero, layers
    beyond its depth are passed by. What is not used begins at zero and has no gradient, but
    statistics over whole tensors (such as the features of a learned optimizer are divided by)
    count it. For separate arrays per size give `meta_train` a list of families.

    Args:
      datasets: what each task has one of.
      widths: smallest and largest number of hidden units; drawn log-uniformly.
      depths: smallest and largest number of hidden layers; drawn uniformly.

    Raises:
      ValueError: a range that is empty or begins below 1.
    """

    def __init__(self, datasets: MixedDatasets, widths: Sequence[int], depths: Sequence[int]):
        for name, (low, high) in (("widths", widths), ("depths", depths)):
            require_at_least_one(name, low, "units or layers")
            if high < low:
                raise ValueError(f"{name}=({low}, {high}) is empty; write (smallest, largest).")
        self.datasets = datasets
        self._widths, self._depths = tuple(widths), tuple(depths)

    @property
    def name(self) -> str:
        """Its name in the registry."""
        return "sampled_mlp"

    def sample(self, key: jax.Array) -> Config:
        """Returns {"width", "depth", "dataset"}, int32 scalars."""
        width_key, depth_key, data_key = jax.random.split(key, 3)
        low, high = (jnp.log(jnp.float32(w)) for w in (self._widths[0], self._widths[1] + 1))
        width = jnp.exp(jax.random.uniform(width_key, (), jnp.float32, low, high))
        return {
            "width": jnp.clip(width.astype(jnp.int32), *self._widths),
            "depth": jax.random.randint(depth_key, (), self._depths[0], self._depths[1] + 1),
            "dataset": jax.random.randint(data_key, (), 0, len(self.datasets.members)),
        }

    def task_fn(self, cfg: Config) -> SupervisedTask:
        """The task of one configuration: three scalars, as `sample` returns them."""
        return _SampledMLPTask(self.datasets, cfg, self._widths[1], self._depths[1])


@gin.configurable(module="comm_lopt")
def sampled_mlp(
    widths: Sequence[int] = (8, 64),
    depths: Sequence[int] = (1, 4),
    members: Sequence[DeviceDatasets] | None = None,
) -> SampledMLPFamily:
    """MLPs of a sampled width and depth, on digits or on Fashion-MNIST at 8×8.

    Args:
      widths: smallest and largest number of hidden units.
      depths: smallest and largest number of hidden layers.
      members: the data sets to draw from; if None `digits_datasets()` and
        `fashion_mnist_datasets(image_size=8)`, each with its other gin bindings.
    """
    if members is None:
        members = (digits_datasets(), fashion_mnist_datasets(image_size=8))
    return SampledMLPFamily(MixedDatasets(members), widths, depths)


class _SampledMLPTask(SupervisedTask):
    """One MLP of the family on one of the data sets."""

    def __init__(self, datasets: MixedDatasets, cfg: Config, max_width: int, max_depth: int):
        super().__init__(datasets, _masked_mlp(cfg, max_width, max_depth), "sampled_mlp")
        self._gather = datasets.gather
        self._dataset = cfg["dataset"]

    def examples(self, data: jax.Array) -> dict[str, jax.Array]:
        return self._gather(data, self._dataset)

    def inputs_and_targets(self, examples: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return examples["image"], examples["label"]


def _masked_mlp(cfg: Config, max_width: int, max_depth: int) -> Network:
    used = jnp.arange(max_width) < cfg["width"]

    def init(rows: jax.Array | None, columns: jax.Array | None, is_used: Any) -> Any:
        """Haiku's usual initial weights where rows and columns (all if None) are used, else 0."""

        def initializer(shape: Sequence[int], dtype: Any) -> jax.Array:
            in_use = jnp.broadcast_to(is_used, shape)
            in_use &= True if rows is None else jnp.broadcast_to(rows[:, None], shape)
            in_use &= True if columns is None else jnp.broadcast_to(columns[None, :], shape)
            fan_in = shape[0] if rows is None else jnp.sum(rows)
            std = jax.lax.rsqrt(jnp.asarray(fan_in, jnp.float32))
            return jnp.where(in_use, hk.initializers.TruncatedNormal()(shape, dtype) * std, 0.0)

        return initializer

    def network(images: jax.Array, num_classes: int, is_training: bool) -> jax.Array:
        del is_training
        h = images.reshape(images.shape[0], -1)
        for layer in range(max_depth):
            in_depth = jnp.asarray(layer < cfg["depth"])
            w_init = init(used if layer else None, used, in_depth)
            new = jax.nn.relu(hk.Linear(max_width, w_init=w_init)(h))
            new = jnp.where(used[None, :], new, 0.0)
            h = jnp.where(in_depth, new, h) if layer else new
        return hk.Linear(num_classes, w_init=init(used, None, jnp.asarray(True)))(h)

    return network
