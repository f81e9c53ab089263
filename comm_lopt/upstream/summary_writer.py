"""Writes upstream's training summaries without TensorFlow.

Upstream's trainer makes its writer by calling `learned_optimization.summary.JaxboardWriter`, which
needs TensorFlow. Where that is missing, this module puts a writer of the same interface in its
place. It writes the same event files, with tensorboardX.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from learned_optimization import summary

from comm_lopt.upstream.optional_modules import StandIn

__all__ = ["EventFileWriter", "replace_unusable_writer"]

_FLUSH_SECONDS = 10  # So that a run can be watched while it goes on.


class EventFileWriter(summary.SummaryWriterBase):
    """Writes TensorBoard event files, with the methods that upstream's trainer calls.

    Upstream's trainer never closes its writer; tensorboardX does when the process ends.
    """

    def __init__(self, log_dir: str | os.PathLike[str]) -> None:
        """Opens an event file in `log_dir`, which is made if it does not exist.

        Raises:
          ImportError: tensorboardX is not installed.
        """
        try:
            import tensorboardX
        except ModuleNotFoundError as error:
            raise ImportError(
                "summaries are written with TensorFlow or with tensorboardX, and neither is "
                "installed: pip install tensorboardX",
                name="tensorboardX",
            ) from error
        self._writer = tensorboardX.SummaryWriter(os.fspath(log_dir), flush_secs=_FLUSH_SECONDS)

    def scalar(self, tag: str, value: Any, step: Any) -> None:
        """Writes one number."""
        self._writer.add_scalar(tag, float(np.asarray(value)), int(step))

    def histogram(self, tag: str, value: Any, step: Any, bins: int | None = None) -> None:
        """Writes the distribution of the finite values in an array; nothing if there are none."""
        values = np.asarray(value, dtype=np.float64).ravel()
        values = values[np.isfinite(values)]
        if values.size:
            self._writer.add_histogram(tag, values, int(step), bins=bins or "tensorflow")

    def text(self, tag: str, textdata: str, step: Any) -> None:
        """Writes a text, which TensorBoard shows as Markdown."""
        self._writer.add_text(tag, textdata, int(step))

    def flush(self) -> None:
        """Brings to the disk what tensorboardX has taken off its queue by now."""
        self._writer.flush()

    def close(self) -> None:
        """Writes out what is buffered and closes the file."""
        self._writer.close()


def replace_unusable_writer() -> bool:
    """Makes upstream's trainer write with `EventFileWriter` if its own writer cannot work.

    Returns:
      Whether the writer was replaced.
    """
    # On main the writer is a class that uses `summary.tf`; in 0.0.1 it is one of flax's, and
    # stood in for where TensorFlow or TensorBoard is missing.
    if not any(isinstance(needed, StandIn) for needed in (summary.tf, summary.JaxboardWriter)):
        return False
    summary.TensorboardWriter = EventFileWriter
    summary.JaxboardWriter = EventFileWriter
    return True
