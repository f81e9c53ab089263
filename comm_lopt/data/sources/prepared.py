"""Data sets in comm_lopt's own folders: plain arrays in files, mapped into memory.

A folder is `$COMM_LOPT_DATA/<name>/` with one `.npy` file for each array of each split and
`dataset.json`, which says what they are. It is written beside its place and moved there when it
is whole, so that what lies there is whole. Reading needs neither TensorFlow nor memory for what
is not used; the order of examples is then ours, and a resumed run knows its place in it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from comm_lopt.atomic import locked
from comm_lopt.data.sources.folder import DataError

__all__ = ["PreparedWriter", "exclusive", "read_prepared", "writing_prepared"]

_FORMAT, _VERSION = "comm_lopt.data", 1
_HEADER = "dataset.json"


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
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        if header["format"] != _FORMAT or header["version"] != _VERSION:
            raise DataError(
                f"{path} is of format {header['format']!r}, version {header['version']}; this is "
                f"comm_lopt's version {_VERSION}; prepare the data anew."
            )
        shapes = {
            split: {key: (list(map(int, a["shape"])), str(a["dtype"])) for key, a in arrays.items()}
            for split, arrays in header["splits"].items()
        }
        info = dict(header["info"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged ({error!r}); prepare the data anew.") from error
    return {
        split: {
            key: _mapped(folder / _file(split, key), *expected) for key, expected in keys.items()
        }
        for split, keys in shapes.items()
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
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f".{folder.name}.lock")
    with locked(lock, f"another process is preparing {folder}; wait until it has ended."):
        yield


@contextlib.contextmanager
def writing_prepared(folder: pathlib.Path) -> Iterator[PreparedWriter]:
    """Gives a writer whose data set comes to lie in `folder` when the block ends well.

    What an earlier, interrupted attempt left behind is removed first, and so is a damaged data
    set in `folder`.

    Raises:
      FileExistsError: a whole data set or something else is there already, or another process
        is preparing it.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    with exclusive(folder):
        if _is_whole(folder):
            raise FileExistsError(
                f"{folder} is there already and whole; remove it to prepare it anew."
            )
        if folder.exists() and not (folder / _HEADER).exists() and any(folder.iterdir()):
            raise FileExistsError(
                f"{folder} holds something else than prepared data; move it away first."
            )
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            yield PreparedWriter(unfinished)
            if (folder / _HEADER).exists():
                shutil.rmtree(folder)
            unfinished.replace(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _is_whole(folder: pathlib.Path) -> bool:
    try:
        read_prepared(folder)
    except (FileNotFoundError, DataError):
        return False
    return True


def _file(split: str, key: str) -> str:
    return f"{split}.{key}.npy"


def _mapped(path: pathlib.Path, shape: list[int], dtype: str) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    # What a damaged header raises in NumPy is an open list.
    except Exception as error:
        raise DataError(f"{path} cannot be read ({error}); prepare the data anew.") from error
    if list(array.shape) != shape or str(array.dtype) != dtype:
        raise DataError(
            f"{path} has {array.dtype} {list(array.shape)} and should have {dtype} {shape}; "
            "prepare the data anew."
        )
    if path.stat().st_size != array.offset + array.nbytes:
        raise DataError(
            f"{path} has {path.stat().st_size} bytes and should have "
            f"{array.offset + array.nbytes}; prepare the data anew."
        )
    return array


def _write_header(file: BinaryIO, count: int, dtype: np.dtype, row: tuple[int, ...]) -> int:
    """Writes the header of an .npy file; returns where the values begin."""
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (count, *row),
    }
    np.lib.format.write_array_header_2_0(file, header)
    return file.tell()
