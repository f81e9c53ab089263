"""How much a packed file may hold: a small one that unpacks to gigabytes is not data."""

from __future__ import annotations

import pathlib

from comm_lopt.data.sources.folder import DataError

__all__ = ["check_unpacked_size"]

_ALWAYS_ALLOWED = 1 << 26
_LARGEST_RATIO = 100


def check_unpacked_size(path: pathlib.Path, num_bytes: int) -> None:
    """Raises DataError if `path` says that it unpacks to more than data does.

    That is to say, to more than 64 MiB and more than 100 times its own size. Packed images are a
    third to a half of what they were.

    Args:
      path: the packed file.
      num_bytes: what its header says of its arrays.
    """
    allowed = max(_ALWAYS_ALLOWED, _LARGEST_RATIO * path.stat().st_size)
    if num_bytes > allowed:
        raise DataError(
            f"{path} says that it unpacks to {num_bytes} bytes, more than {allowed}, which is "
            f"{_LARGEST_RATIO} times its size; unpack it yourself if you trust it."
        )
