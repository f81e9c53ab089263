"""Data on the device as an argument of compiled programs, and not a constant within them."""

from __future__ import annotations

import contextlib
import inspect
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

            make = LoweringParameters.__init__
            stack.enter_context(_default_of(make, "hoist_constants_as_args", True))
            stack.enter_context(use_simplified_jaxpr_constants(True))
            stack.enter_context(embedded_constants_max_bytes(_LARGE))
        yield


@contextlib.contextmanager
def _default_of(make: Any, name: str, value: Any) -> Iterator[None]:
    """Gives an argument of a function another default.

    JAX takes this one from its option once, when it is imported. All threads see the change; but
    where the option is off, lowering finds nothing to hoist, and programs stay as they are.
    """
    before = make.__defaults__
    arguments = inspect.signature(make).parameters.values()
    make.__defaults__ = tuple(
        value if argument.name == name else argument.default
        for argument in arguments
        if argument.default is not argument.empty
    )
    try:
        yield
    finally:
        make.__defaults__ = before
