"""Fashion-MNIST from IDX files: 70,000 images of 28×28 in ten classes."""

from __future__ import annotations

import functools
import os
import pathlib

import gin
import jax
import numpy as np

from comm_lopt.checks import require_at_least_one
from comm_lopt.data.device import DeviceDatasets
from comm_lopt.data.idx import DataError, read_idx

__all__ = ["fashion_mnist_datasets", "find_fashion_mnist"]

_SIZE = 28
_NUM_CLASSES = 10
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_DATA_DIR_VARIABLE = "COMM_LOPT_DATA"
# Where Debian's and Ubuntu's package dataset-fashion-mnist puts the files.
_DEBIAN_FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")


def find_fashion_mnist(folder: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Finds the folder with the four IDX files, gzipped or not.

    Args:
      folder: where they are; if None, `$COMM_LOPT_DATA/fashion_mnist` and then the folder of
        Debian's package are looked at.

    Raises:
      FileNotFoundError: they are not there; says how to get them.
    """
    if folder is not None:
        candidates = [pathlib.Path(folder)]
    else:
        data_dir = os.environ.get(_DATA_DIR_VARIABLE)
        candidates = [pathlib.Path(data_dir) / "fashion_mnist"] if data_dir else []
        candidates.append(_DEBIAN_FOLDER)
    for candidate in candidates:
        if all(_file(candidate, name) for names in _FILES.values() for name in names):
            return candidate
    looked = " or ".join(map(str, candidates))
    raise FileNotFoundError(
        f"Fashion-MNIST's four IDX files are not in {looked}; on Debian or Ubuntu run "
        "`apt-get install dataset-fashion-mnist`, elsewhere put train-images-idx3-ubyte.gz and "
        f"its three siblings into a folder fashion_mnist and set {_DATA_DIR_VARIABLE} to the "
        "folder around it."
    )


@gin.configurable(module="comm_lopt")
def fashion_mnist_datasets(
    batch_size: int = 128,
    image_size: int = _SIZE,
    seed: int = 0,
    folder: str | None = None,
) -> DeviceDatasets:
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
      FileNotFoundError: the files are not there; says how to get them.
      DataError: a file is corrupt, or is not Fashion-MNIST.
      ValueError: B or S below 1, or B above 48,000.
    """
    require_at_least_one("image_size", image_size, "pixels along a side")
    train, test = _read(find_fashion_mnist(folder), image_size)
    num_train, num_valid = len(train["label"]) * 8 // 10, len(train["label"]) // 10
    ends = {
        "train": (0, num_train),
        "inner_valid": (num_train, num_train + num_valid),
        "outer_valid": (num_train + num_valid, len(train["label"])),
    }
    splits = {
        name: {key: array[start:end] for key, array in train.items()}
        for name, (start, end) in ends.items()
    }
    extra_info = {"num_classes": _NUM_CLASSES, "largest_value": 255}
    return DeviceDatasets({**splits, "test": test}, batch_size, seed, extra_info=extra_info)


@functools.lru_cache(maxsize=2)
def _read(
    folder: pathlib.Path, image_size: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    train, test = (_read_split(folder, *names, image_size) for names in _FILES.values())
    return train, test


def _read_split(
    folder: pathlib.Path, images_name: str, labels_name: str, image_size: int
) -> dict[str, np.ndarray]:
    images_file, labels_file = _file(folder, images_name), _file(folder, labels_name)
    if images_file is None or labels_file is None:
        raise FileNotFoundError(f"{folder} lacks {images_name} or {labels_name}.")
    images, labels = read_idx(images_file), read_idx(labels_file)
    if images.ndim != 3 or images.shape[1:] != (_SIZE, _SIZE):
        raise DataError(
            f"{images_file} has shape {list(images.shape)}; Fashion-MNIST's images are "
            f"[N, {_SIZE}, {_SIZE}]."
        )
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{labels_file} has shape {list(labels.shape)} beside {len(images)} images; there is "
            "one label an image."
        )
    if labels.size and labels.max() >= _NUM_CLASSES:
        raise DataError(
            f"{labels_file} has the label {labels.max()}; labels lie in 0 to {_NUM_CLASSES - 1}."
        )
    return {"image": _resized(images, image_size)[..., None], "label": labels.astype(np.int32)}


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    if size == _SIZE:
        return images
    shape = (len(images), size, size)
    resized = jax.image.resize(images.astype(np.float32), shape, "linear", antialias=False)
    return np.asarray(resized).round().astype(np.uint8)


def _file(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)
