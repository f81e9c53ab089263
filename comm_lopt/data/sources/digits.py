"""The handwritten digits that scikit-learn bundles: 1,797 images of 8×8, no download."""

from __future__ import annotations

import importlib.util
import pathlib

import gin
import numpy as np

from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.sources.images import LabelledImages, image_datasets
from comm_lopt.data.sources.source import BundledSource

__all__ = ["DIGITS", "digits_datasets"]

DIGITS = BundledSource(
    name="digits",
    summary="1,797 images 8x8x1 of digits in 10 classes",
    configurable="digits_datasets",
    where="bundled with scikit-learn",
)

# 80 %, 5 %, 5 % and 10 % of the 1,797 images, in one fixed random order.
_SPLIT_ENDS = {"train": 1437, "inner_valid": 1527, "outer_valid": 1617, "test": 1797}
_SPLIT_SEED = 0
_LARGEST_VALUE = 16


@gin.configurable(module="comm_lopt")
def digits_datasets(batch_size: int = 32, seed: int = 0) -> ExampleDatasets:
    """Digits as uint8 images [N, 8, 8, 1] with values 0 to 16, and int32 labels [N].

    The splits are disjoint and always the same: 1,437 train, 90 inner_valid, 90 outer_valid,
    180 test.

    Args:
      batch_size: B.
      seed: seed of the order in which training draws the images.

    Raises:
      ValueError: B below 1 or above 1,437.
    """
    images, labels = _load()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(labels))
    images, labels = images[order], labels[order]
    splits = {}
    start = 0
    for name, end in _SPLIT_ENDS.items():
        splits[name] = LabelledImages(images[start:end], labels[start:end])
        start = end
    return image_datasets(splits, 10, batch_size, seed, largest_value=_LARGEST_VALUE)


def _load() -> tuple[np.ndarray, np.ndarray]:
    """uint8 [1797, 8, 8, 1] and int32 [1797].

    scikit-learn takes as long to import as all the rest of the package, so that its file is read
    without it where it lies as it does today.
    """
    found = importlib.util.find_spec("sklearn")
    folders = (found.submodule_search_locations if found else None) or []
    for folder in folders:
        path = pathlib.Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            table = np.loadtxt(path, delimiter=",", dtype=np.float32)
            break
    else:
        from sklearn.datasets import load_digits

        data, target = load_digits(return_X_y=True)
        table = np.column_stack([data, target])
    pixels, labels = table[:, :-1], table[:, -1]
    return pixels.astype(np.uint8).reshape(-1, 8, 8, 1), labels.astype(np.int32)
