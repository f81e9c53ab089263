"""A digest of data, by which a resumed run knows that it goes on with the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

__all__ = ["digest_of_arrays"]

_WHOLE = 1 << 26
_NUM_STRETCHES, _STRETCH = 64, 1 << 20


def digest_of_arrays(splits: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Returns a SHA-256 over arrays, by split and key: names, types, shapes and values.

    Of an array of more than 64 MiB, 64 stretches of about 1 MiB, evenly spread from its first
    row to its last, stand for the values: a change that lies between them is not seen.
    """
    digest = hashlib.sha256()
    for split, arrays in sorted(splits.items()):
        for key, array in sorted(arrays.items()):
            digest.update(f"{split} {key} {array.dtype.str} {array.shape}\n".encode())
            rows = max(len(array), 1)
            if array.nbytes > _WHOLE:
                rows = max(1, _STRETCH * len(array) // array.nbytes)
            last = max(len(array) - rows, 0)
            for start in np.unique(np.linspace(0, last, _NUM_STRETCHES).astype(np.int64)):
                stretch = np.ascontiguousarray(array[start : start + rows])
                digest.update(stretch.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
