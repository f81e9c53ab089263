"""Data sets in comm_lopt's own folders: plain arrays in files, mapped into memory.

A folder is `$COMM_LOPT_DATA/<name>/` with one `.npy` file for each array of each split and
`dataset.json`, which says what they are. It is written beside its place and moved there when it
is whole, so that what lies there is whole. Reading needs neither TensorFlow nor memory for what
is not used; the order of examples is then ours, and a resumed run knows its place in it. A folder
may be a link: what it points to is then the place.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from comm_lopt.atomic import locked
from comm_lopt.damage import damage_as
from comm_lopt.data.sources.folder import DataError
from comm_lopt.data.sources.npy import read_npy_header

__all__ = ["PreparedWriter", "exclusive", "read_prepared", "writing_prepared"]

_FORMAT, _VERSION = "comm_lopt.data", 1
_FIX = "prepare the data anew."
_HEADER = "dataset.json"
# A header of a hundred arrays has 10 KB.
_MAX_HEADER = 1 << 20


def read_prepared(folder: pathlib.Path) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """Maps the arrays of a prepared data set into memory.

    Returns:
      arrays by split and key, read-only; and what the writer said about them.

    Raises:
      FileNotFoundError: there is no prepared data set in `folder`.
      DataError: a file is missing, truncated or not what `dataset.json` says.
    """
    path = folder / _HEADER
    if not path.is_file():
        raise FileNotFoundError(f"there is no prepared data set in {folder}.")
    with damage_as(DataError, f"{path} is damaged", _FIX):
        if path.stat().st_size > _MAX_HEADER:
            raise ValueError(f"it has more than {_MAX_HEADER} bytes")
        header = json.loads(path.read_text(encoding="utf-8"))
        if header["format"] != _FORMAT or header["version"] != _VERSION:
            raise DataError(
                f"{path} is of format {header['format']!r}, version {header['version']}; this is "
                f"comm_lopt's version {_VERSION}; {_FIX}"
            )
        expected = {
            split: {
                key: (folder / _file(split, key), list(map(int, a["shape"])), str(a["dtype"]))
                for key, a in arrays.items()
            }
            for split, arrays in header["splits"].items()
        }
        info = dict(header["info"])
    return {
        split: {key: _mapped(*file) for key, file in files.items()}
        for split, files in expected.items()
    }, info


class PreparedWriter:
    """Writes the arrays of a data set batch by batch.

    Args:
      folder: an empty folder.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._splits: dict[str, dict[str, dict[str, Any]]] = {}

    def write(self, split: str, batches: Iterator[Mapping[str, np.ndarray]]) -> int:
        """Writes batches {key: [n, ...]} of equal types and row shapes, one after another.

        Returns:
          The number of rows.

        Raises:
          DataError: no batches, or batches that differ in keys, types or row shapes.
          ValueError: a name of a split or key that is more than letters, digits, _ and -.
        """
        first = next(batches, None)
        if first is None:
            raise DataError(f"split {split!r} has no examples.")
        rows = {key: (array.dtype, array.shape[1:]) for key, array in first.items()}
        counts = dict.fromkeys(rows, 0)
        with contextlib.ExitStack() as stack:
            files = {
                key: stack.enter_context((self._folder / _file(split, key)).open("wb"))
                for key in rows
            }
            starts = {key: _write_header(files[key], 0, *row) for key, row in rows.items()}
            for batch in itertools.chain([first], batches):
                found = {key: (array.dtype, array.shape[1:]) for key, array in batch.items()}
                if found != rows:
                    raise DataError(f"split {split!r}: a batch of {found} after {rows}.")
                for key, array in batch.items():
                    files[key].write(np.ascontiguousarray(array).data)
                    counts[key] += len(array)
            for key, row in rows.items():
                # The length is known only now. NumPy leaves room for it in the header.
                files[key].seek(0)
                if _write_header(files[key], counts[key], *row) != starts[key]:
                    raise DataError(f"{split}.{key} has no room for a length of {counts[key]}.")
        self._splits[split] = {
            key: {"shape": [counts[key], *shape], "dtype": str(dtype)}
            for key, (dtype, shape) in rows.items()
        }
        return next(iter(counts.values()))

    def finish(self, info: Mapping[str, Any]) -> None:
        """Writes `dataset.json`."""
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "info": dict(info),
            "splits": self._splits,
        }
        (self._folder / _HEADER).write_text(json.dumps(header, indent=2), encoding="utf-8")


@contextlib.contextmanager
def exclusive(folder: pathlib.Path) -> Iterator[None]:
    """Lets one process at a time make a folder.

    Raises:
      FileExistsError: another process is at it.
    """
    place = _place(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = place.with_name(f".{place.name}.lock")
    with locked(lock, f"another process is preparing {folder}; wait until it has ended."):
        yield


def _place(folder: pathlib.Path) -> pathlib.Path:
    """Where a folder lies or will lie: what it points to if it or one around it is a link."""
    return pathlib.Path(os.path.realpath(folder))


@contextlib.contextmanager
def writing_prepared(folder: pathlib.Path) -> Iterator[PreparedWriter]:
    """Gives a writer whose data set comes to lie in `folder` when the block ends well.

    What an earlier, interrupted attempt left behind is removed first, and so is a damaged data
    set in `folder`. A data set that is whole is never removed: if it cannot be moved to `folder`
    it stays where it was written.

    Raises:
      FileExistsError: a whole data set or something else is there already, or another process
        is preparing it.
      OSError: the data set could not be moved; says where it lies.
    """
    place = _place(folder)
    unfinished = place.with_name(f".{place.name}.unfinished")
    with exclusive(folder):
        if _is_whole(place):
            raise FileExistsError(
                f"{folder} is there already and whole; remove it to prepare it anew."
            )
        if _is_whole(unfinished):
            raise FileExistsError(
                f"{unfinished} is the whole data set, which an earlier attempt could not move to "
                f"{place}; move it there, or remove it to prepare it anew."
            )
        if place.exists() and not (place / _HEADER).exists() and any(place.iterdir()):
            raise FileExistsError(
                f"{folder} holds something else than prepared data; move it away first."
            )
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            yield PreparedWriter(unfinished)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        _move(unfinished, place)


def _move(unfinished: pathlib.Path, place: pathlib.Path) -> None:
    try:
        if (place / _HEADER).exists():
            shutil.rmtree(place)
        unfinished.replace(place)
    except OSError as error:
        raise OSError(
            error.errno,
            f"the data set is whole and lies in {unfinished}; it cannot be moved to {place} "
            f"({error.strerror}): move it there yourself.",
        ) from error


def _is_whole(folder: pathlib.Path) -> bool:
    try:
        read_prepared(folder)
    except (FileNotFoundError, DataError):
        return False
    return True


def _file(split: str, key: str) -> str:
    """Name of an array's file; a header from elsewhere cannot lead out of its folder."""
    for name in (split, key):
        if not re.fullmatch(r"\w[\w-]{0,99}", name):
            raise ValueError(f"{name!r:.100} is no name of a split or an array")
    return f"{split}.{key}.npy"


def _mapped(path: pathlib.Path, shape: list[int], dtype: str) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path} cannot be read: there is no such file; {_FIX}")
    with damage_as(DataError, f"{path} cannot be read", _FIX):
        with path.open("rb") as file:
            found, found_type = read_npy_header(file)
            size = file.tell() + math.prod(found) * found_type.itemsize
        if list(found) != shape or str(found_type) != dtype:
            raise DataError(
                f"{path} has {found_type} {list(found)} and should have {dtype} {shape}; {_FIX}"
            )
        if path.stat().st_size != size:
            raise DataError(
                f"{path} has {path.stat().st_size} bytes and should have {size}; {_FIX}"
            )
        return np.lib.format.open_memmap(path, mode="r")


def _write_header(file: BinaryIO, count: int, dtype: np.dtype, row: tuple[int, ...]) -> int:
    """Writes the header of an .npy file; returns where the values begin."""
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (count, *row),
    }
    np.lib.format.write_array_header_2_0(file, header)
    return file.tell()
