"""Fashion-MNIST: 70,000 images of 28×28 in ten classes, from IDX files or TFDS."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib

import gin
import jax
import numpy as np

from comm_lopt.checks import require_at_least_one
from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.sources.folder import DATA_VARIABLE, data_folder, user_path
from comm_lopt.data.sources.idx import find_idx_files, read_idx_images
from comm_lopt.data.sources.images import LabelledImages, image_datasets
from comm_lopt.data.sources.prepared import read_prepared
from comm_lopt.data.sources.prepared_source import PreparedSource, load_images
from comm_lopt.data.sources.splits import LAST_FIFTH_HELD_OUT

__all__ = ["FASHION_MNIST", "fashion_mnist_datasets", "find_fashion_mnist"]

_SHAPE = (28, 28, 1)
_NUM_CLASSES = 10
# Where Debian's and Ubuntu's package dataset-fashion-mnist puts the files.
_DEBIAN_FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")


def find_fashion_mnist(folder: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Finds the folder with the four IDX files, gzipped or not, or with the prepared data.

    Args:
      folder: where they are; if None, `$COMM_LOPT_DATA/fashion_mnist` and then the folder of
        Debian's package are looked at.

    Raises:
      FileNotFoundError: they are not there; says how to get them.
    """
    candidates = (
        [data_folder() / "fashion_mnist", _DEBIAN_FOLDER] if folder is None else [user_path(folder)]
    )
    for candidate in candidates:
        if find_idx_files(candidate) or (candidate / "dataset.json").is_file():
            return candidate
    looked = " or ".join(map(str, candidates))
    raise FileNotFoundError(
        f"Fashion-MNIST is not in {looked}; on Debian or Ubuntu run "
        "`apt-get install dataset-fashion-mnist`, elsewhere put train-images-idx3-ubyte or "
        "train-images.idx3-ubyte (with .gz or without) and its three siblings into a folder "
        f"fashion_mnist and set {DATA_VARIABLE} to the folder around it, or run `comm-lopt data "
        "prepare fashion_mnist`, which downloads it."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _FashionMNIST(PreparedSource):
    """Prepared, or as IDX files."""

    def find(self) -> str:
        folder = find_fashion_mnist()
        if find_idx_files(folder) is None:
            read_prepared(folder)
        return str(folder)


FASHION_MNIST = _FashionMNIST(
    name="fashion_mnist",
    tfds_name="fashion_mnist:3.0.1",
    summary="70,000 images 28x28x1 of clothes in 10 classes",
    configurable="fashion_mnist_datasets",
    percents=LAST_FIFTH_HELD_OUT,
    num_classes=_NUM_CLASSES,
    image_shape=_SHAPE,
)


@gin.configurable(module="comm_lopt")
def fashion_mnist_datasets(
    batch_size: int = 128,
    image_size: int = _SHAPE[0],
    seed: int = 0,
    folder: str | None = None,
) -> ExampleDatasets:
    """Fashion-MNIST on the device: uint8 images [N, S, S, 1] and int32 labels [N].

    The splits are upstream's: 48,000 train, 6,000 inner_valid, 6,000 outer_valid (the last
    12,000 of the training files, in order) and the 10,000 test images.

    Args:
      batch_size: B.
      image_size: S; other than 28 the images are resized (bilinear, without antialiasing, as
        upstream does) and rounded to whole grey values.
      seed: seed of the order in which training draws the images.
      folder: see `find_fashion_mnist`.

    Raises:
      FileNotFoundError: the data is not there; says how to get it.
      DataError: a file is corrupt, or is not Fashion-MNIST.
      ValueError: B or S below 1, or B above 48,000.
    """
    require_at_least_one("image_size", image_size, "pixels along a side")
    splits = _read(find_fashion_mnist(folder), image_size)
    return image_datasets(splits, _NUM_CLASSES, batch_size, seed)


@functools.lru_cache(maxsize=2)
def _read(folder: pathlib.Path, image_size: int) -> dict[str, LabelledImages]:
    files = find_idx_files(folder)
    if files is None:
        splits = load_images(FASHION_MNIST, folder)
    else:
        raw = {
            name: read_idx_images(*pair, num_classes=_NUM_CLASSES, image_shape=_SHAPE)
            for name, pair in files.items()
        }
        splits = FASHION_MNIST.split_images(raw)
    return {
        name: LabelledImages(_resized(split.images, image_size), split.labels)
        for name, split in splits.items()
    }


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    if size == images.shape[1]:
        return images
    shape = (len(images), size, size, images.shape[3])
    resized = jax.image.resize(images.astype(np.float32), shape, "linear", antialias=False)
    return np.asarray(resized).round().astype(np.uint8)
