"""Images and labels in an `.npz` file."""

from __future__ import annotations

import math
import os
import zipfile

import gin
import numpy as np

from comm_lopt.damage import damage_as
from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.sources.folder import DataError, user_path
from comm_lopt.data.sources.images import LabelledImages, check_images, image_datasets
from comm_lopt.data.sources.npy import read_npy_header
from comm_lopt.data.sources.source import YourSource
from comm_lopt.data.sources.splits import (
    LAST_FIFTH_HELD_OUT,
    LAST_FIFTH_HELD_OUT_WITH_TEST,
    percent_splits,
)
from comm_lopt.data.sources.unpacking import check_unpacked_size

__all__ = ["NPZ", "npz_datasets", "read_npz"]

NPZ = YourSource(
    name="npz",
    summary="images and labels in an .npz file",
    configurable="npz_datasets",
    yours="npz_datasets.path",
)
_SHUFFLE_SEED = 0
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all arrays of an `.npz` file; none may be pickled.

    Raises:
      FileNotFoundError: there is no such file.
      DataError: it is truncated, corrupt, no `.npz` file, packed in another way than NumPy packs,
        or unpacks to more than data does (see `check_unpacked_size`).
    """
    path = user_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    told = f"{path} cannot be read as .npz"
    fix = "it is damaged or another kind of file."
    with damage_as(DataError, told, fix), zipfile.ZipFile(path) as file:
        members = file.infolist()
        for member in members:
            # bz2 and lzma give all that a few bytes unpack to at once, whatever size is said.
            if member.compress_type not in _PACKED:
                raise ValueError(
                    f"{member.filename} is packed by method {member.compress_type}; NumPy stores "
                    f"({zipfile.ZIP_STORED}) or deflates ({zipfile.ZIP_DEFLATED})"
                )
        check_unpacked_size(path, sum(member.file_size for member in members))
        return {m.filename.removesuffix(".npy"): _array(file, m) for m in members}


def _array(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with file.open(member) as content:
        shape, dtype = read_npy_header(content)
        # NumPy would make the whole array before it reads the first value.
        if math.prod(shape) * dtype.itemsize > member.file_size:
            raise ValueError(
                f"{member.filename} is of {dtype}{list(shape)} and has {member.file_size} bytes"
            )
    with file.open(member) as content:
        array = np.lib.format.read_array(content, allow_pickle=False)
        # The checksum is looked at only where the member ends.
        if content.read(1):
            raise ValueError(f"{member.filename} is longer than its header says")
    return array


@gin.configurable(module="comm_lopt")
def npz_datasets(
    path: str = gin.REQUIRED,
    batch_size: int = 128,
    seed: int = 0,
    num_classes: int | None = None,
    image_size: int | None = None,
) -> ExampleDatasets:
    """Images and labels of an `.npz` file, on the device.

    The file holds `x_train`, `y_train`, `x_test` and `y_test`, as Keras's do, or `image` and
    `label`. Images are uint8 [N, S, S] or [N, S, S, C], labels integers [N]. Splits: the first
    80 % of the training images, then 10 % inner_valid and 10 % outer_valid; without test
    images 80 %, 5 %, 5 % and 10 % of all, in one fixed random order.

    Args:
      path: the file.
      batch_size: B.
      seed: seed of the order in which training draws the images.
      num_classes: number of classes; one more than the largest label if None.
      image_size: S that the images must have; any if None.

    Raises:
      FileNotFoundError: there is no such file.
      DataError: it is damaged, lacks an array, or the arrays are not images and labels.
      ValueError: B below 1 or above the number of training images.
    """
    arrays = read_npz(path)
    if {"x_train", "y_train", "x_test", "y_test"} <= set(arrays):
        train = check_images(path, arrays["x_train"], arrays["y_train"], num_classes)
        shape = train.images.shape[1:]
        test = check_images(path, arrays["x_test"], arrays["y_test"], num_classes, shape)
        parts = percent_splits(len(train.labels), LAST_FIFTH_HELD_OUT)
        splits = {**{name: train[part] for name, part in parts.items()}, "test": test}
    elif {"image", "label"} <= set(arrays):
        everything = check_images(path, arrays["image"], arrays["label"], num_classes)
        order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(everything.labels))
        shuffled = LabelledImages(everything.images[order], everything.labels[order])
        parts = percent_splits(len(order), LAST_FIFTH_HELD_OUT_WITH_TEST)
        splits = {name: shuffled[part] for name, part in parts.items()}
    else:
        raise DataError(
            f"{path} holds {sorted(arrays)[:20]}; it needs image and label, or x_train, y_train, "
            "x_test and y_test."
        )
    size = splits["train"].images.shape[1]
    if image_size not in (None, size):
        raise DataError(f"{path} has images of {size} pixels and image_size={image_size}.")
    if num_classes is None:
        num_classes = 1 + max(int(split.labels.max(initial=0)) for split in splits.values())
    return image_datasets(splits, num_classes, batch_size, seed)
