"""Tasks on Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Sequence

import gin

from comm_lopt.data.device import DeviceDatasets
from comm_lopt.data.fashion_mnist import fashion_mnist_datasets
from comm_lopt.tasks.image_classification import ImageClassificationTask
from comm_lopt.tasks.networks import convnet, mlp
from comm_lopt.upstream import TaskFamily, single_task_to_family

__all__ = ["fashion_mnist_conv", "fashion_mnist_mlp", "fashion_mnist_mlp8"]


@gin.configurable(module="comm_lopt")
def fashion_mnist_mlp(
    hidden_sizes: Sequence[int] = (128, 128), datasets: DeviceDatasets | None = None
) -> TaskFamily:
    """An MLP 784-128-128-10 on 28×28 images (Joseph et al. 2025, figures 2 to 4).

    Args:
      hidden_sizes: widths of the hidden layers; how many there are is the depth.
      datasets: `fashion_mnist_datasets()` with its gin bindings if None.
    """
    datasets = datasets or fashion_mnist_datasets()
    task = ImageClassificationTask(datasets, mlp(hidden_sizes), "fashion_mnist_mlp")
    return single_task_to_family(task)


@gin.configurable(module="comm_lopt")
def fashion_mnist_mlp8(
    hidden_sizes: Sequence[int] = (32,), datasets: DeviceDatasets | None = None
) -> TaskFamily:
    """An MLP 64-32-10 on images resized to 8×8, small enough for two CPU cores.

    Args:
      hidden_sizes: widths of the hidden layers.
      datasets: `fashion_mnist_datasets(image_size=8)` with its other gin bindings if None.
    """
    datasets = datasets or fashion_mnist_datasets(image_size=8)
    task = ImageClassificationTask(datasets, mlp(hidden_sizes), "fashion_mnist_mlp8")
    return single_task_to_family(task)


@gin.configurable(module="comm_lopt")
def fashion_mnist_conv(
    channels: Sequence[int] = (32, 64, 64), datasets: DeviceDatasets | None = None
) -> TaskFamily:
    """A convnet 32-64-64 on 28×28 images.

    Args:
      channels: channels of each convolution.
      datasets: `fashion_mnist_datasets()` with its gin bindings if None.
    """
    datasets = datasets or fashion_mnist_datasets()
    task = ImageClassificationTask(datasets, convnet(channels), "fashion_mnist_conv")
    return single_task_to_family(task)
