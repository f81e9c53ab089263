"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32×32."""

from __future__ import annotations

import gin

from comm_lopt.data.catalogue import PREPARED, load_images
from comm_lopt.data.datasets import ExampleDatasets
from comm_lopt.data.images import image_datasets

__all__ = ["cifar10_datasets", "cifar100_datasets"]


@gin.configurable(module="comm_lopt")
def cifar10_datasets(
    batch_size: int = 128, seed: int = 0, folder: str | None = None
) -> ExampleDatasets:
    """CIFAR-10 on the device: uint8 images [N, 32, 32, 3] and int32 labels [N] in 0 to 9.

    The splits are upstream's: 40,000 train, 5,000 inner_valid, 5,000 outer_valid (the last
    10,000 training images, in TFDS's order) and the 10,000 test images.

    Args:
      batch_size: B.
      seed: seed of the order in which training draws the images.
      folder: of the prepared data; `$COMM_LOPT_DATA/cifar10` if None.

    Raises:
      FileNotFoundError: it has not been prepared; says how to.
      DataError: its files are damaged.
      ValueError: B below 1 or above 40,000.
    """
    return _datasets("cifar10", batch_size, seed, folder)


@gin.configurable(module="comm_lopt")
def cifar100_datasets(
    batch_size: int = 128, seed: int = 0, folder: str | None = None
) -> ExampleDatasets:
    """CIFAR-100 with its 100 fine labels; otherwise as `cifar10_datasets`."""
    return _datasets("cifar100", batch_size, seed, folder)


def _datasets(name: str, batch_size: int, seed: int, folder: str | None) -> ExampleDatasets:
    source = PREPARED[name]
    return image_datasets(load_images(source, folder), source.num_classes, batch_size, seed)
