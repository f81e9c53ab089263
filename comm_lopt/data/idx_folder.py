"""Any data set in four IDX files named as MNIST's."""

from __future__ import annotations

import gin

from comm_lopt.data.datasets import ExampleDatasets
from comm_lopt.data.idx import read_idx_images, require_idx_files
from comm_lopt.data.images import image_datasets, percent_splits

__all__ = ["idx_folder_datasets"]

_PERCENTS = {"train": (0, 80), "inner_valid": (80, 90), "outer_valid": (90, 100)}


@gin.configurable(module="comm_lopt")
def idx_folder_datasets(
    folder: str = gin.REQUIRED, batch_size: int = 128, seed: int = 0, num_classes: int = 10
) -> ExampleDatasets:
    """A folder of IDX files (MNIST, KMNIST, ...), gzipped or not, on the device.

    Splits: the first 80 % of the training files, then 10 % inner_valid and 10 % outer_valid;
    the t10k files are test.

    Args:
      folder: holds `train-images-idx3-ubyte` and its three siblings.
      batch_size: B.
      seed: seed of the order in which training draws the images.
      num_classes: number of classes.

    Raises:
      FileNotFoundError: the files are not there.
      DataError: a file is corrupt, or a label out of range.
      ValueError: B below 1 or above the number of training images.
    """
    files = require_idx_files(folder)
    train = read_idx_images(*files["train"], num_classes=num_classes)
    test = read_idx_images(
        *files["test"], num_classes=num_classes, image_shape=train.images.shape[1:]
    )
    parts = percent_splits(len(train.labels), _PERCENTS)
    splits = {**{name: train[part] for name, part in parts.items()}, "test": test}
    return image_datasets(splits, num_classes, batch_size, seed)
