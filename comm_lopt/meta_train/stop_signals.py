"""SIGTERM and Ctrl-C ask a run to stop; a second Ctrl-C ends the process at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import TracebackType

__all__ = ["StopSignals"]

_WATCHED = (signal.SIGINT, signal.SIGTERM)
_CLOSE = b"\0"


class StopSignals:
    """A context that catches SIGTERM and SIGINT (Ctrl-C).

    Python's own handlers run only between two steps of the interpreter, so during a long
    computation two signals would look like one. Signals are therefore read from a pipe, in a
    thread: it sees each of them when it comes.

    Outside the main thread, where signals cannot be caught, it catches none.

    Attributes:
      requested: number of the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.requested: int | None = None

    def __enter__(self) -> StopSignals:
        self._active = threading.current_thread() is threading.main_thread()
        if not self._active:
            return self
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._earlier_fd = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        # Without a handler of Python's, the signal would not reach the pipe.
        self._earlier = {number: signal.signal(number, _do_nothing) for number in _WATCHED}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._active:
            return
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._earlier_fd)
        os.write(self._writing, _CLOSE)
        self._thread.join()
        os.close(self._reading)
        os.close(self._writing)

    def _watch(self) -> None:
        while (byte := os.read(self._reading, 1)) != _CLOSE:
            number = byte[0]
            if number not in _WATCHED:
                continue
            if self.requested is None:
                self.requested = number
                _tell(
                    f"{signal.Signals(number).name}: stops after this meta-step, and saves it; "
                    "Ctrl-C now stops at once"
                )
            elif number == signal.SIGINT:
                _tell("stopped at once; --resume goes on from the last checkpoint")
                os._exit(128 + number)


def _do_nothing(number: int, frame: object) -> None:
    del number, frame


def _tell(message: str) -> None:
    print(f"\n{message}", file=sys.stderr, flush=True)
