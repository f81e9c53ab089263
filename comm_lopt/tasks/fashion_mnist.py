"""Tasks on Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Sequence

import gin

from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.sources.fashion_mnist import fashion_mnist_datasets
from comm_lopt.tasks.autoencoder import AutoencoderTask
from comm_lopt.tasks.image_classification import image_family
from comm_lopt.tasks.networks.convnet import convnet
from comm_lopt.tasks.networks.mlp import mlp
from comm_lopt.tasks.networks.vit import vit
from comm_lopt.upstream import TaskFamily, single_task_to_family

__all__ = [
    "fashion_mnist_ae8",
    "fashion_mnist_conv",
    "fashion_mnist_mlp",
    "fashion_mnist_mlp8",
    "fashion_mnist_vit",
]


@gin.configurable(module="comm_lopt")
def fashion_mnist_mlp(
    hidden_sizes: Sequence[int] = (128, 128), datasets: ExampleDatasets | None = None
) -> TaskFamily:
    """An MLP 784-128-128-10 on 28×28 images (Joseph et al. 2025, figures 2 to 4).

    Args:
      hidden_sizes: widths of the hidden layers; how many there are is the depth.
      datasets: `fashion_mnist_datasets()` with its gin bindings if None.
    """
    datasets = datasets or fashion_mnist_datasets()
    return image_family("fashion_mnist_mlp", datasets, mlp(hidden_sizes))


@gin.configurable(module="comm_lopt")
def fashion_mnist_mlp8(
    hidden_sizes: Sequence[int] = (32,), datasets: ExampleDatasets | None = None
) -> TaskFamily:
    """An MLP 64-32-10 on images resized to 8×8, small enough for two CPU cores.

    Args:
      hidden_sizes: widths of the hidden layers.
      datasets: `fashion_mnist_datasets(image_size=8)` with its other gin bindings if None.
    """
    datasets = datasets or fashion_mnist_datasets(image_size=8)
    return image_family("fashion_mnist_mlp8", datasets, mlp(hidden_sizes))


@gin.configurable(module="comm_lopt")
def fashion_mnist_conv(
    channels: Sequence[int] = (32, 64, 64), datasets: ExampleDatasets | None = None
) -> TaskFamily:
    """A convnet 32-64-64 on 28×28 images.

    Args:
      channels: channels of each convolution.
      datasets: `fashion_mnist_datasets()` with its gin bindings if None.
    """
    datasets = datasets or fashion_mnist_datasets()
    return image_family("fashion_mnist_conv", datasets, convnet(channels))


@gin.configurable(module="comm_lopt")
def fashion_mnist_vit(
    width: int = 32,
    num_layers: int = 2,
    num_heads: int = 4,
    patch_size: int = 7,
    datasets: ExampleDatasets | None = None,
) -> TaskFamily:
    """A small vision transformer on 28×28 images, which are 16 patches of 7×7 pixels.

    Args:
      width: size of a token.
      num_layers: number of blocks.
      num_heads: heads of each; divides the width.
      patch_size: pixels along a side of a patch; divides the image's.
      datasets: `fashion_mnist_datasets()` with its gin bindings if None.
    """
    network = vit(width, num_layers, num_heads, patch_size)
    return image_family("fashion_mnist_vit", datasets or fashion_mnist_datasets(), network)


@gin.configurable(module="comm_lopt")
def fashion_mnist_ae8(
    hidden_sizes: Sequence[int] = (32, 8, 32), datasets: ExampleDatasets | None = None
) -> TaskFamily:
    """An autoencoder 64-32-8-32-64 on images resized to 8×8.

    Args:
      hidden_sizes: widths of the hidden layers.
      datasets: `fashion_mnist_datasets(image_size=8)` with its other gin bindings if None.
    """
    data = datasets or fashion_mnist_datasets(image_size=8)
    return single_task_to_family(AutoencoderTask(data, hidden_sizes, "fashion_mnist_ae8"))
