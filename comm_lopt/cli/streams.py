"""Standard output and error that work outlives: closed ones, and pipes whose reader has left."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["lasting_streams"]


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Lets what is printed go nowhere once nobody can read it, in place of ending the work."""
    before = sys.stdout, sys.stderr
    # Python has None for what was closed when it started.
    lasting = [_open(stream, number) for number, stream in enumerate(before, start=1)]
    sys.stdout, sys.stderr = lasting
    try:
        yield
    finally:
        for stream in lasting:
            stream.flush()
        sys.stdout, sys.stderr = before


def _open(stream: Any, descriptor: int) -> _LastingStream:
    if stream is None:
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            descriptor = -1  # Someone else's by now.
        if descriptor >= 0:
            # Otherwise the next file that is opened would get what libraries print.
            _to_nowhere(descriptor)
        stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    elif hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")  # A terminal may not know the sign ±.
    return _LastingStream(stream)


class _LastingStream:
    """A text stream that takes whatever is written, though its reader may have left."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._do(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._do(self._stream.flush)

    def _do(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except BrokenPipeError:
            _to_nowhere(self._stream.fileno())  # Its buffer as well, when that is flushed.

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
