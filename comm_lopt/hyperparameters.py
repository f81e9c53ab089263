"""Hyperparameters with where their values came from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import gin
import numpy as np

__all__ = ["REQUIRED", "Hyperparameter", "configured", "one_line", "plain"]

REQUIRED = inspect.Parameter.empty
"""The value of an argument that has none yet."""

_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Hyperparameter(NamedTuple):
    """A value and its source.

    Attributes:
      value: a number, a text, a truth value or None.
      source: "default", "gin", "given", "sweep FOLDER", "theta's card", or "theta's header" and
        what became of what stands there.
    """

    value: Any
    source: str


def configured(make: Callable[..., Any]) -> dict[str, Hyperparameter]:
    """The arguments of a function as it would be called with none: gin's bindings, then defaults.

    Args:
      make: a function or class, gin-configurable or not; an argument without a value has
        `REQUIRED`.
    """
    arguments = {
        name: Hyperparameter(parameter.default, "default")
        for name, parameter in inspect.signature(make).parameters.items()
        if parameter.kind in _KINDS
    }
    try:
        bound = gin.get_bindings(make)
    except (TypeError, ValueError):  # It is none of gin's.
        bound = {}
    return arguments | {name: Hyperparameter(plain(value), "gin") for name, value in bound.items()}


def plain(value: Any) -> Any:
    """NumPy's and JAX's scalars as Python's numbers, which JSON can hold; others as they are."""
    if isinstance(value, np.generic) or (hasattr(value, "item") and np.ndim(value) == 0):
        return value.item()
    return value


def one_line(text: str, most: int = 200) -> str:
    """Text as a line of a table can show it: what cannot be printed escaped, the rest cut off."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return line if len(line) <= most else line[: most - 1] + "…"
