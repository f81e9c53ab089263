"""Exit codes of the commands, which tell errors apart."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from comm_lopt.atomic import BusyError
from comm_lopt.data.sources.folder import DataError
from comm_lopt.long_runs.errors import CheckpointError, DivergedError, RunStopped
from comm_lopt.long_runs.stop_signals import ends_the_process
from comm_lopt.meta_test.check_results import ResultsError
from comm_lopt.processes import ProcessError
from comm_lopt.theta import ThetaError

__all__ = ["EXIT_CODES", "exit_code", "run_command", "tell"]

EXIT_CODES: dict[int | str, str] = {
    0: "done",
    1: "an error that nobody foresaw, shown with its traceback; the quickstart's verdict",
    2: "bad input: a flag, setting, name or path, a run of another problem, results already there",
    3: "a damaged file, or one of another kind: data, theta, results, or all checkpoints",
    4: "meta-training diverged",
    5: "a file or folder cannot be read or written, such as on a full disk",
    6: "another process is at work in the folder",
    7: "a process of a run of several failed, was not there, or is of another run",
    "128 + n": "ended by signal n: 130 Ctrl-C, 143 SIGTERM; meta-training saves at the first",
}
"""What each means."""

# The first that fits counts.
_ERRORS: tuple[tuple[int, tuple[type[Exception], ...]], ...] = (
    (3, (DataError, ThetaError, ResultsError, CheckpointError)),
    (4, (DivergedError,)),
    (6, (BusyError,)),
    (7, (ProcessError,)),
    (2, (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)),
    (5, (OSError,)),
    (2, (ValueError, TypeError, ImportError)),
)


def exit_code(error: BaseException) -> int | None:
    """The exit code of an error, or None for one that nobody foresaw."""
    if isinstance(error, RunStopped):
        return error.exit_status
    if isinstance(error, KeyboardInterrupt):
        return 130
    return next((code for code, classes in _ERRORS if isinstance(error, classes)), None)


def run_command(name: str, command: Callable[[], int], debug: bool = False) -> int:
    """Runs a command; returns its exit code, and prints the error if it ends with one.

    Args:
      name: of the command, for the message.
      command: returns the exit code if no error is raised.
      debug: show the traceback of an error.
    """
    try:
        with ends_the_process():
            return command()
    except BaseException as error:
        code = exit_code(error)
        if code is None:
            raise
        if debug:
            traceback.print_exc()
        tell(name, error)
        return code


def tell(name: str, error: BaseException) -> None:
    """Prints an error that ends a command."""
    # Without the Python functions that gin adds to messages.
    message = str(error).split("\n  In call to configurable")[0] or "interrupted"
    print(f"{name}: {message}", file=sys.stderr, flush=True)
