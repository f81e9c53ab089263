"""Any data set in four IDX files named as MNIST's."""

from __future__ import annotations

import gin

from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.sources.idx import read_idx_images, require_idx_files
from comm_lopt.data.sources.images import image_datasets
from comm_lopt.data.sources.source import YourSource
from comm_lopt.data.sources.splits import LAST_FIFTH_HELD_OUT, percent_splits

__all__ = ["IDX_FOLDER", "idx_folder_datasets"]

IDX_FOLDER = YourSource(
    name="idx_folder",
    summary="a folder of four IDX files, as MNIST's",
    configurable="idx_folder_datasets",
    yours="idx_folder_datasets.folder",
)


@gin.configurable(module="comm_lopt")
def idx_folder_datasets(
    folder: str = gin.REQUIRED, batch_size: int = 128, seed: int = 0, num_classes: int = 10
) -> ExampleDatasets:
    """A folder of IDX files (MNIST, KMNIST, ...), gzipped or not, on the device.

    Splits: the first 80 % of the training files, then 10 % inner_valid and 10 % outer_valid;
    the t10k files are test.

    Args:
      folder: holds `train-images-idx3-ubyte` (or Kaggle's `train-images.idx3-ubyte`) and its three
        siblings.
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
    parts = percent_splits(len(train.labels), LAST_FIFTH_HELD_OUT)
    splits = {**{name: train[part] for name, part in parts.items()}, "test": test}
    return image_datasets(splits, num_classes, batch_size, seed)
