"""IDX files, the format of MNIST and Fashion-MNIST, gzipped or not."""

from __future__ import annotations

import gzip
import math
import os
import pathlib
import zlib

import numpy as np

__all__ = ["DataError", "read_idx"]

_UINT8 = 0x08
_MAX_RANK = 8


class DataError(ValueError):
    """A data file that is not what it should be."""


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
