"""Tasks on CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from collections.abc import Sequence

import gin

from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.sources.cifar import cifar10_datasets, cifar100_datasets
from comm_lopt.tasks.image_classification import image_family
from comm_lopt.tasks.networks.convnet import convnet
from comm_lopt.tasks.networks.mlp import mlp
from comm_lopt.upstream import TaskFamily

__all__ = ["cifar10_conv", "cifar10_mlp", "cifar100_conv", "cifar100_mlp"]


@gin.configurable(module="comm_lopt")
def cifar10_conv(
    channels: Sequence[int] = (32, 64, 64), datasets: ExampleDatasets | None = None
) -> TaskFamily:
    """A convnet 32-64-64 on 32×32 colour images (Joseph et al. 2025).

    Args:
      channels: channels of each convolution.
      datasets: `cifar10_datasets()` with its gin bindings if None.
    """
    return image_family("cifar10_conv", datasets or cifar10_datasets(), convnet(channels))


@gin.configurable(module="comm_lopt")
def cifar10_mlp(
    hidden_sizes: Sequence[int] = (128, 128), datasets: ExampleDatasets | None = None
) -> TaskFamily:
    """An MLP 3072-128-128-10.

    Args:
      hidden_sizes: widths of the hidden layers.
      datasets: `cifar10_datasets()` with its gin bindings if None.
    """
    return image_family("cifar10_mlp", datasets or cifar10_datasets(), mlp(hidden_sizes))


@gin.configurable(module="comm_lopt")
def cifar100_conv(
    channels: Sequence[int] = (32, 64, 64), datasets: ExampleDatasets | None = None
) -> TaskFamily:
    """A convnet 32-64-64 on 32×32 colour images in 100 classes.

    Args:
      channels: channels of each convolution.
      datasets: `cifar100_datasets()` with its gin bindings if None.
    """
    return image_family("cifar100_conv", datasets or cifar100_datasets(), convnet(channels))


@gin.configurable(module="comm_lopt")
def cifar100_mlp(
    hidden_sizes: Sequence[int] = (128, 128), datasets: ExampleDatasets | None = None
) -> TaskFamily:
    """An MLP 3072-128-128-100.

    Args:
      hidden_sizes: widths of the hidden layers.
      datasets: `cifar100_datasets()` with its gin bindings if None.
    """
    return image_family("cifar100_mlp", datasets or cifar100_datasets(), mlp(hidden_sizes))
