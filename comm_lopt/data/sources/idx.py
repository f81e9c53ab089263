"""IDX files, the format of MNIST and Fashion-MNIST, gzipped or not."""

from __future__ import annotations

import gzip
import math
import os
import pathlib
from typing import Protocol

import numpy as np

from comm_lopt.damage import damage_as
from comm_lopt.data.sources.folder import DataError, user_path
from comm_lopt.data.sources.images import LabelledImages, check_images
from comm_lopt.data.sources.unpacking import check_unpacked_size

__all__ = ["find_idx_files", "read_idx", "read_idx_images", "require_idx_files"]

_UINT8 = 0x08
_MAX_RANK = 8
_PIECE = 1 << 20
_SPLITS = {"train": "train", "test": "t10k"}
_KINDS = {"images": 3, "labels": 1}


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


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
      DataError: the file is truncated, longer than its header says, of another type, no IDX
        file at all, or unpacks to more than data does (see `check_unpacked_size`).
    """
    path = pathlib.Path(path)
    packed = path.suffix == ".gz"
    with (
        damage_as(DataError, f"{path} cannot be read as IDX", "fetch it anew."),
        gzip.open(path) if packed else path.open("rb") as file,
    ):
        shape = _read_shape(path, file)
        expected = math.prod(shape)
        if packed:
            check_unpacked_size(path, expected)
        # One byte more than expected tells whether the file is longer, and has gzip compare its
        # checksum, which stands at the end.
        content = _read_at_most(file, expected + 1)
        if len(content) != expected:
            found = f"{len(content)}" if len(content) < expected else "more"
            raise DataError(
                f"{path} says it has shape {list(shape)}, {expected} values, and holds {found}; "
                "fetch it anew."
            )
        return np.frombuffer(content, np.uint8).reshape(shape)


def _read_shape(path: pathlib.Path, file: _Readable) -> tuple[int, ...]:
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or not 1 <= start[3] <= _MAX_RANK:
        raise DataError(
            f"{path} begins with {start.hex() or 'nothing'}: an IDX file begins with 0000, "
            f"its type and its rank (1 to {_MAX_RANK}); pass the original file."
        )
    if start[2] != _UINT8:
        raise DataError(
            f"{path} holds values of type {start[2]:#04x}; images and labels are unsigned "
            f"bytes, {_UINT8:#04x}."
        )
    sizes = file.read(4 * start[3])
    if len(sizes) < 4 * start[3]:
        raise DataError(f"{path} ends inside its header; fetch it anew.")
    return tuple(int(size) for size in np.frombuffer(sizes, ">u4"))


def _read_at_most(file: _Readable, limit: int) -> bytearray:
    """Reads to the end or to the limit; memory is taken for what is there, not for the limit."""
    content = bytearray()
    while len(content) < limit:
        piece = file.read(min(_PIECE, limit - len(content)))
        if not piece:
            break
        content += piece
    return content


def find_idx_files(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, pathlib.Path]] | None:
    """Returns the files of images and labels by split ("train", "test"), or None.

    They are named as MNIST's, `train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte` and so on, or
    as Kaggle's, `train-images.idx3-ubyte`; each with `.gz` or without.
    """
    try:
        return require_idx_files(folder)
    except FileNotFoundError:
        return None


def _names(split: str, kind: str) -> list[str]:
    """Names that a file of a split may have, the usual ones first."""
    stem, ending = f"{_SPLITS[split]}-{kind}", f"idx{_KINDS[kind]}-ubyte"
    return [f"{stem}{dot}{ending}{packed}" for dot in "-." for packed in ("", ".gz")]


def require_idx_files(
    folder: str | os.PathLike[str],
) -> dict[str, tuple[pathlib.Path, pathlib.Path]]:
    """What `find_idx_files` returns.

    Raises:
      FileNotFoundError: a file is missing; says by which names it was looked for.
    """
    found = {}
    for split in _SPLITS:
        images, labels = (_first_file(user_path(folder), _names(split, kind)) for kind in _KINDS)
        found[split] = (images, labels)
    return found


def _first_file(folder: pathlib.Path, names: list[str]) -> pathlib.Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} has none of {', '.join(names)}; put one of them there.")


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
