"""Files that are whole or not there, and folders that one process uses at a time."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import pathlib
import tempfile
from collections.abc import Iterator

import filelock

try:
    import fcntl
except ImportError:  # Windows has locks of its own.
    fcntl = None  # type: ignore[assignment]

__all__ = ["BusyError", "locked", "remove_leftovers", "replacing"]

_NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class BusyError(FileExistsError):
    """What another process is working on."""


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
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(lock: pathlib.Path, busy: str) -> Iterator[None]:
    """Lets one process at a time into the block; a process that is killed lets go as well.

    Where the file system has no `flock`, the lock is that the file is there, with the holder's
    process and host in it. One of a killed process then stands until a process on the same host
    looks, or somebody removes it.

    Args:
      lock: the lock's file; made if missing, and left if there is `flock`.
      busy: what to tell a second process.

    Raises:
      BusyError: another process is in the block.
    """
    # A lock of its own each time: one process is to be refused a second run as well.
    file_lock = filelock.FileLock(lock) if _has_flock(lock.parent) else filelock.SoftFileLock(lock)
    try:
        file_lock.acquire(timeout=0)
    except filelock.Timeout as error:
        with contextlib.suppress(OSError, ValueError):
            holder = lock.read_text(encoding="utf-8").split()[:2]
            busy += f" It is process {' on '.join(holder)}." if holder else ""
        raise BusyError(
            f"{busy} The lock is {lock}: if no process is at it on any host (one that was killed "
            "on another host can leave its lock), remove that file and try again."
        ) from error
    try:
        yield
    finally:
        file_lock.release()


def _has_flock(folder: pathlib.Path) -> bool:
    """Whether the file system can lock; some of those that hosts share cannot."""
    if fcntl is None:
        return True
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_FLOCK:
                return False
            raise
    return True
