"""Files that are whole or not there, and folders that one process uses at a time."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

import filelock

__all__ = ["locked", "remove_leftovers", "replacing"]


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary path; what is written there takes the place of `path` in one step.

    A block that fails leaves `path` as it was and no temporary file. A process that is killed
    can leave one; see `remove_leftovers`.

    Args:
      path: the file to replace or make; its folder exists.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        # On disk before the name points to it: a power cut must not leave an empty file.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(path: pathlib.Path) -> None:
    """Removes the temporary files that killed processes left of `replacing(path)`.

    To be called while no other process writes to `path`.
    """
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(lock: pathlib.Path, busy: str) -> Iterator[None]:
    """Lets one process at a time into the block; a process that is killed lets go as well.

    Args:
      lock: the lock's file; made if missing, and left.
      busy: what to tell a second process.

    Raises:
      FileExistsError: another process is in the block.
    """
    # A lock of its own each time: one process is to be refused a second run as well.
    file_lock = filelock.FileLock(lock)
    try:
        file_lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise FileExistsError(busy) from error
    try:
        yield
    finally:
        file_lock.release()
