"""The handwritten digits that scikit-learn bundles: 1,797 images of 8×8, no download."""

from __future__ import annotations

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
    # It takes as long to import as all the rest of the package.
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(digits.target))
    images = digits.images[order].astype(np.uint8)[..., None]
    labels = digits.target[order].astype(np.int32)
    splits = {}
    start = 0
    for name, end in _SPLIT_ENDS.items():
        splits[name] = LabelledImages(images[start:end], labels[start:end])
        start = end
    return image_datasets(splits, 10, batch_size, seed, largest_value=_LARGEST_VALUE)
