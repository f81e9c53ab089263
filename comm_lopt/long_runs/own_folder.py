"""A run's folder: its own, for one process at a time, and of no other run."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

from comm_lopt.atomic import locked
from comm_lopt.long_runs.errors import writing

__all__ = ["CHECKPOINTS", "alone_in", "refuse_another_run"]

CHECKPOINTS = "checkpoints"
"""The folder of checkpoints in that of a run."""


def refuse_another_run(folder: pathlib.Path, log: str, resume: bool, flag: str) -> None:
    """Raises FileExistsError if there is a run that is not to be resumed.

    Args:
      folder: of the run.
      log: name of the file in it that every run begins.
      resume: whether a run that is there is to go on.
      flag: that chose the folder, for the message.
    """
    started = (folder / log).exists() or any((folder / CHECKPOINTS).glob("[0-9]*"))
    if started and not resume:
        raise FileExistsError(
            f"{folder} holds another run; pass --resume to go on with it, or another {flag}."
        )


@contextlib.contextmanager
def alone_in(folder: pathlib.Path, log: str, resume: bool, flag: str) -> Iterator[None]:
    """Makes the folder, and keeps other processes and other runs out of it.

    Args:
      folder: see `refuse_another_run`, as for the other arguments.
      log: see there.
      resume: see there.
      flag: see there.

    Raises:
      BusyError: another process is at the run.
      FileExistsError: it holds a run that is not to be resumed.
      SaveError: it cannot be written.
    """
    busy = (
        f"another process is at the run in {folder}; wait until it has ended, or pass another "
        f"{flag}."
    )
    with contextlib.ExitStack() as stack:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / ".lock", busy))
        refuse_another_run(folder, log, resume, flag)
        yield
