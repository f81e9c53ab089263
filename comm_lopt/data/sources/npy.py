"""The header of an `.npy` file; NumPy believes it, and a wrong one can end the process."""

from __future__ import annotations

from typing import IO

import numpy as np

__all__ = ["read_npy_header"]


def read_npy_header(content: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type that an array of an `.npy` file says it has; reads up to its values.

    Raises:
      ValueError: no such file, or an array that could not be read safely.
    """
    version = np.lib.format.read_magic(content)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"format version {version} of .npy; arrays here are of 1.0 or 2.0")
    shape, _, dtype = readers[version](content)
    if dtype.hasobject:
        raise ValueError("pickled objects, which are never read: allow_pickle=False")
    if not dtype.itemsize:
        raise ValueError(f"values of type {dtype}, which have no size")
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of shape {list(shape)}")
    return shape, dtype
