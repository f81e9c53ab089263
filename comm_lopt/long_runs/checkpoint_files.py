"""The files of a checkpoint: arrays by name, what is told beside them, and a digest of each."""

from __future__ import annotations

import hashlib
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

__all__ = [
    "NOT_THERE",
    "DamageError",
    "named_leaves",
    "packed",
    "read_files",
    "read_files_patiently",
    "unpacked",
]

PyTree = Any

NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""Errors that say a file is gone, and not that its disk fails."""

_ARRAYS, _INFO, _DIGESTS = "arrays.safetensors", "info.json", "sha256"
# A file system of a network can fail for a moment. Seconds to wait before reading again.
_READ_AGAIN_AFTER = (0.1, 1.0, 5.0)


class DamageError(Exception):
    """A checkpoint whose files are not those that were saved."""


def read_files(folder: pathlib.Path) -> dict[str, bytes]:
    """The files in a checkpoint's folder, by name.

    Raises:
      DamageError: they are not those that were written.
      OSError: one cannot be read, or is not there.
    """
    files = {name: (folder / name).read_bytes() for name in (_ARRAYS, _INFO, _DIGESTS)}
    if files.pop(_DIGESTS) != _digests(files):
        raise DamageError("its content is not what was saved")
    return files


def read_files_patiently(folder: pathlib.Path) -> dict[str, bytes]:
    """As `read_files`, and again after a while where a disk fails."""
    for seconds in _READ_AGAIN_AFTER:
        try:
            return read_files(folder)
        except NOT_THERE:
            raise
        except OSError:
            time.sleep(seconds)
    return read_files(folder)


def _digests(files: Mapping[str, bytes]) -> bytes:
    """The SHA-256 of each file, as `sha256sum --check` reads them."""
    digests = [(hashlib.sha256(content).hexdigest(), name) for name, content in files.items()]
    return "".join(f"{digest}  {name}\n" for digest, name in digests).encode()


def packed(leaves: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, bytes]:
    """Files of a checkpoint, in which `leaves`, arrays of any shape by name, are copied."""
    # Safetensors writes what lies in memory, in whatever order.
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in leaves.items()}
    # It has other names for types, and reads fewer of them than it writes.
    dtypes = {name: str(array.dtype) for name, array in arrays.items()}
    files = {
        _ARRAYS: safetensors.numpy.save(arrays),
        _INFO: json.dumps({"dtypes": dtypes, "info": dict(info)}, indent=1).encode(),
    }
    return {**files, _DIGESTS: _digests(files)}


def unpacked(files: Mapping[str, bytes]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays of any shape by name, what was told beside them) of `packed`."""
    saved = json.loads(files[_INFO])
    leaves = {
        name: np.frombuffer(array["data"], saved["dtypes"][name]).reshape(array["shape"])
        for name, array in safetensors.deserialize(files[_ARRAYS])
    }
    return leaves, saved["info"]


def named_leaves(state: PyTree) -> dict[str, Any]:
    """Arrays by path, such as "[0]['a.b'].c", which no two paths share.

    Upstream's states begin with numbers of Python (a count of steps) where later an array is;
    JAX says of which type that is.
    """
    paths = jax.tree_util.tree_leaves_with_path(state)
    leaves = {jax.tree_util.keystr(path): jnp.asarray(leaf) for path, leaf in paths}
    if len(leaves) != len(paths):
        raise ValueError(
            "two arrays of the state have one name, since a class registered with JAX gives two "
            "children one key; give each a key of its own."
        )
    return leaves
