"""What can end a meta-training run early; each says what to do next."""

from __future__ import annotations

import signal

__all__ = ["CheckpointError", "DivergedError", "ResumeError", "RunStopped", "SaveError"]


class CheckpointError(ValueError):
    """A folder of a run in which no checkpoint is whole."""


class ResumeError(ValueError):
    """A run that cannot be resumed with this configuration."""


class SaveError(OSError):
    """A run's folder that cannot be written, such as one on a full disk."""


class DivergedError(FloatingPointError):
    """Too many meta-steps in a row whose meta-loss or meta-gradient is not finite."""


class RunStopped(Exception):
    """A run that was asked to stop, and saved all it had done.

    Attributes:
      signal_number: the signal that asked.
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number

    @property
    def exit_status(self) -> int:
        """What a command ends with, as shells have it: 128 and the signal's number."""
        return 128 + self.signal_number

    @property
    def signal_name(self) -> str:
        """Such as "SIGTERM"."""
        return signal.Signals(self.signal_number).name
