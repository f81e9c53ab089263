"""Data on the device as an argument of compiled programs, and not a constant within them."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["data_as_arguments"]

_LARGE = 1 << 16


@contextlib.contextmanager
def data_as_arguments() -> Iterator[None]:
    """Programs that this thread compiles within take arrays of more than 64 KiB as arguments.

    JAX otherwise puts a copy of every array that a function closes over into each program:
    compiling takes longer, and memory holds the data once more. The bits are the same either way.
    What is traced outside, and by other threads, stays as it is. What this needs is in JAX 0.10
    to 0.12 and not public; with another JAX that lacks it, programs hold the data.

    Source: https://docs.jax.dev/en/latest/internals/constants.html
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, AttributeError):
            from jax._src.config import embedded_constants_max_bytes, use_simplified_jaxpr_constants
            from jax._src.interpreters.mlir import LoweringParameters

            stack.enter_context(_HOISTING.within(LoweringParameters.__init__))
            stack.enter_context(use_simplified_jaxpr_constants(True))
            stack.enter_context(embedded_constants_max_bytes(_LARGE))
        yield


class _Hoisting:
    """Gives an argument of JAX's another default for as long as a thread needs it.

    JAX takes this one from its option once, when it is imported. All threads see the change; but
    where the option is off, lowering finds nothing to hoist, and programs stay as they are.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entered = 0
        self._before: tuple[Any, ...] | None = None

    @contextlib.contextmanager
    def within(self, make: Any) -> Iterator[None]:
        with self._lock:
            if not self._entered:
                self._before = make.__defaults__
                make.__defaults__ = _with_default(make, "hoist_constants_as_args", True)
            self._entered += 1
        try:
            yield
        finally:
            with self._lock:
                self._entered -= 1
                if not self._entered:
                    make.__defaults__ = self._before


def _with_default(function: Any, name: str, value: Any) -> tuple[Any, ...]:
    """The defaults of a function with another value for an argument."""
    return tuple(
        value if argument.name == name else argument.default
        for argument in inspect.signature(function).parameters.values()
        if argument.default is not argument.empty
    )


_HOISTING = _Hoisting()
