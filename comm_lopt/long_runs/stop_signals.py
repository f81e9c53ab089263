"""SIGTERM and Ctrl-C ask a run to stop; a second Ctrl-C ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import TracebackType

__all__ = ["StopSignals", "ends_the_process"]

_WATCHED = (signal.SIGINT, signal.SIGTERM)
_CLOSE = b"\0"
_AGAIN_AFTER = 0.1  # seconds
_process_is_ours = False


@contextlib.contextmanager
def ends_the_process() -> Iterator[None]:
    """In this block, a command's, a second Ctrl-C ends the process, in whatever it is."""
    global _process_is_ours
    earlier, _process_is_ours = _process_is_ours, True
    try:
        yield
    finally:
        _process_is_ours = earlier


class StopSignals:
    """A context that catches SIGTERM and SIGINT (Ctrl-C).

    Python's own handlers run only between two steps of the interpreter, so during a long
    computation two signals would look like one. Signals are therefore read from a pipe, in a
    thread: it sees each of them when it comes. A second Ctrl-C raises KeyboardInterrupt in the
    main thread as soon as Python can, or ends the process; see `ends_the_process`.

    Outside the main thread, where signals cannot be caught, it catches none.

    Args:
      unit: what is finished before it stops, for the message.

    Attributes:
      requested: number of the first signal that came, or None.
    """

    def __init__(self, unit: str = "meta-step") -> None:
        self._unit = unit
        self.requested: int | None = None
        self._interrupting = False
        self._interrupted = threading.Event()

    def __enter__(self) -> StopSignals:
        self._active = threading.current_thread() is threading.main_thread()
        if not self._active:
            return self
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._earlier_fd = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        # Without a handler of Python's, the signal would not reach the pipe.
        self._earlier = {number: signal.signal(number, self._handle) for number in _WATCHED}
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
        self._interrupted.set()
        os.write(self._writing, _CLOSE)
        self._thread.join()
        for number, handler in self._earlier.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._earlier_fd)
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
                    f"{signal.Signals(number).name}: stops after this {self._unit}, and saves it; "
                    "Ctrl-C now stops at once"
                )
            elif number == signal.SIGINT and not self._interrupting:
                _tell("stopped at once; --resume goes on from the last checkpoint")
                if _process_is_ours:
                    os._exit(128 + number)
                self._interrupting = True
                # Python may have called the handler for this signal already; and a signal of its
                # own wakes the main thread where it sleeps or waits, or the next one does if it
                # was just about to.
                main_thread = threading.main_thread().ident or 0
                signal.pthread_kill(main_thread, signal.SIGINT)
                while not self._interrupted.wait(_AGAIN_AFTER):
                    signal.pthread_kill(main_thread, signal.SIGINT)

    def _handle(self, number: int, frame: object) -> None:
        del number, frame
        if self._interrupting and not self._interrupted.is_set():
            self._interrupted.set()
            raise KeyboardInterrupt


def _tell(message: str) -> None:
    print(f"\n{message}", file=sys.stderr, flush=True)
