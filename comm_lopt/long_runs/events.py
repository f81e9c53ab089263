"""Scalars for TensorBoard, written at once: tensorboardX's own writer hangs on a full disk.

Its thread dies of the first error, and then its queue fills up.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

__all__ = ["ScalarEvents"]


class ScalarEvents:
    """An event file.

    Args:
      folder: where to write it.
      first_step: step of the first scalars; if above 1, TensorBoard drops what earlier files of
        the folder say of it and of later steps.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        self._writer = EventsWriter(str(folder / "events"))
        if first_step > 1:
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(
                Event(wall_time=time.time(), step=first_step, session_log=start)
            )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars by name; TensorBoard can read them at once, `flush` has them on disk."""
        for name, value in values.items():
            event = Event(wall_time=time.time(), step=step, summary=scalar(name, value))
            self._writer.write_event(event)
        # Its own flush waits for the disk, which would be too much in every meta-step.
        self._writer._py_recordio_writer._writer.flush()

    def flush(self) -> None:
        """Puts them on disk."""
        self._writer.flush()

    def close(self) -> None:
        """Closes the file, also where what is left cannot be written."""
        try:
            self._writer.close()
        finally:
            self._writer._py_recordio_writer.close()
