"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32×32."""

from __future__ import annotations

import gin

from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.sources.images import image_datasets
from comm_lopt.data.sources.prepared_source import PreparedSource, load_images
from comm_lopt.data.sources.splits import LAST_FIFTH_HELD_OUT

__all__ = ["CIFAR10", "CIFAR100", "cifar10_datasets", "cifar100_datasets"]

CIFAR10 = PreparedSource(
    name="cifar10",
    tfds_name="cifar10:3.0.2",
    summary="60,000 images 32x32x3 in 10 classes",
    configurable="cifar10_datasets",
    percents=LAST_FIFTH_HELD_OUT,
    num_classes=10,
    image_shape=(32, 32, 3),
)
CIFAR100 = PreparedSource(
    name="cifar100",
    tfds_name="cifar100:3.0.2",
    summary="60,000 images 32x32x3 in 100 classes",
    configurable="cifar100_datasets",
    percents=LAST_FIFTH_HELD_OUT,
    num_classes=100,
    image_shape=(32, 32, 3),
)


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
    return _datasets(CIFAR10, batch_size, seed, folder)


@gin.configurable(module="comm_lopt")
def cifar100_datasets(
    batch_size: int = 128, seed: int = 0, folder: str | None = None
) -> ExampleDatasets:
    """CIFAR-100 with its 100 fine labels; otherwise as `cifar10_datasets`."""
    return _datasets(CIFAR100, batch_size, seed, folder)


def _datasets(
    source: PreparedSource, batch_size: int, seed: int, folder: str | None
) -> ExampleDatasets:
    return image_datasets(load_images(source, folder), source.num_classes, batch_size, seed)
