"""IDX files, the format of MNIST and Fashion-MNIST, gzipped or not."""

from __future__ import annotations

import gzip
import math
import os
import pathlib
import zlib

import numpy as np

from comm_lopt.data.folder import DataError
from comm_lopt.data.images import LabelledImages, check_images

__all__ = ["find_idx_files", "read_idx", "read_idx_images"]

_UINT8 = 0x08
_MAX_RANK = 8
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an IDX file of unsigned bytes.

    The file is two zero bytes, the type 0x08, the rank, one big-endian uint32 for each
    dimension, and then the values.

    Args:
      path: the file; it is unpacked if its name ends in `.gz`.

    Returns:
      uint8, of the shape that the header says.

    Raises:
      FileNotFoundError: there is no such file.
      DataError: the file is truncated, longer than its header says, of another type, or no
        IDX file at all.
    """
    path = pathlib.Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked: {error}; fetch it anew.") from error
    if len(content) < 4 or content[:2] != b"\0\0" or not 1 <= content[3] <= _MAX_RANK:
        raise DataError(
            f"{path} begins with {content[:4].hex() or 'nothing'}: an IDX file begins with 0000, "
            f"its type and its rank (1 to {_MAX_RANK}); pass the original file."
        )
    if content[2] != _UINT8:
        raise DataError(
            f"{path} holds values of type {content[2]:#04x}; images and labels are unsigned "
            f"bytes, {_UINT8:#04x}."
        )
    rank = content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise DataError(f"{path} ends inside its header; fetch it anew.")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", rank, 4))
    expected = math.prod(shape)
    if len(content) - start != expected:
        raise DataError(
            f"{path} says it has shape {list(shape)}, {expected} values, and holds "
            f"{len(content) - start}; fetch it anew."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def find_idx_files(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]] | None:
    """Returns the files of images and labels by split ("train", "test"), or None.

    They are named as MNIST's: `train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte` and so on,
    with `.gz` or without.
    """
    found = {}
    for split, names in _FILES.items():
        candidates = [(folder / name, folder / f"{name}.gz") for name in names]
        paths = [next((path for path in pair if path.is_file()), None) for pair in candidates]
        if paths[0] is None or paths[1] is None:
            return None
        found[split] = (paths[0], paths[1])
    return found


def read_idx_images(
    images_file: pathlib.Path,
    labels_file: pathlib.Path,
    num_classes: int | None = None,
    image_shape: tuple[int, ...] | None = None,
) -> LabelledImages:
    """Reads a pair of IDX files; see `check_images`.

    Raises:
      FileNotFoundError: a file is missing.
      DataError: a file is corrupt, or the two do not fit.
    """
    where = f"{images_file} with {labels_file.name}"
    images, labels = read_idx(images_file), read_idx(labels_file)
    return check_images(where, images, labels, num_classes, image_shape)
