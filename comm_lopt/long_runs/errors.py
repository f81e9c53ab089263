"""What can end a long run early; each says what to do next."""

from __future__ import annotations

import contextlib
import pathlib
import signal
from collections.abc import Iterator

from comm_lopt.atomic import BusyError

__all__ = [
    "CheckpointError",
    "DivergedError",
    "ResumeError",
    "RunStopped",
    "SaveError",
    "writing",
]


class CheckpointError(ValueError):
    """A folder of a run in which no checkpoint is whole."""


class ResumeError(ValueError):
    """A run that cannot be resumed with this configuration."""


class SaveError(OSError):
    """A run's folder that cannot be written, such as one on a full disk."""


class DivergedError(FloatingPointError):
    """Too many meta-steps in a row whose meta-loss or meta-gradient is not finite."""


class RunStopped(BaseException):
    """A run that was asked to stop, and saved all it had done.

    Like `KeyboardInterrupt` it is no `Exception`: what goes on after one that failed, such as a
    loop over runs, ends as well.

    Attributes:
      signal_number: the signal that asked.
    """

    def __init__(self, message: str, signal_number: int):
        # Both, for it is made anew from these where it passes from one process to another.
        super().__init__(message, signal_number)
        self.signal_number = signal_number

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def exit_status(self) -> int:
        """What a command ends with, as shells have it: 128 and the signal's number."""
        return 128 + self.signal_number

    @property
    def signal_name(self) -> str:
        """Such as "SIGTERM"."""
        return signal.Signals(self.signal_number).name


@contextlib.contextmanager
def writing(folder: pathlib.Path) -> Iterator[None]:
    """A block that only writes to a run's folder: its OSErrors become SaveErrors that say so."""
    try:
        yield
    except BusyError:
        raise
    except OSError as error:
        raise SaveError(
            f"{folder} cannot be written ({error}); make room or mend it, then go on with "
            "--resume, or pass another --train_log_dir."
        ) from error
