"""Checks of arguments: each error says the value, the rule and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import jax

from comm_lopt.hyperparameters import plain

__all__ = [
    "did_you_mean",
    "nearest_name",
    "require_at_least_one",
    "require_choice",
    "require_jax_option_off",
    "require_range",
    "require_same_workers",
    "require_seed",
]


def require_at_least_one(name: str, value: Any, meaning: str) -> int:
    """Returns `value` as an int of at least 1.

    Args:
      name: argument's name, as the caller spells it.
      value: what was given.
      meaning: what the number counts, for the message ("workers", "local steps" ...).

    Raises:
      TypeError: `value` is not an integer.
      ValueError: `value` is below 1.
    """
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(
            f"{name}={value!r}: the number of {meaning} is an integer of at least 1; "
            f"pass {name}=1 or more."
        )
    if number < 1:
        raise ValueError(
            f"{name}={number}: the number of {meaning} must be at least 1; pass {name}=1 or more."
        )
    return number


def require_range(
    name: str,
    value: Any,
    low: float,
    high: float = float("inf"),
    *,
    exclude_low: bool = False,
    exclude_high: bool = False,
) -> Any:
    """Returns `value` as Python's number if it lies between `low` and `high`.

    A sweep traces its hyperparameters; a traced value has no number to look at yet, and passes.

    Raises:
      TypeError: `value` is not a number.
      ValueError: a concrete `value` lies outside.
    """
    if isinstance(value, jax.core.Tracer):
        return value
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{name}={value!r} is not a number; pass a number.")
    above = number > low if exclude_low else number >= low
    below = number < high if exclude_high else number <= high
    if not (above and below):
        interval = f"{'(' if exclude_low else '['}{low}, {high}{')' if exclude_high else ']'}"
        raise ValueError(
            f"{name}={value!r} lies outside {interval}; pass a {name} inside this interval."
        )
    return number


def require_jax_option_off(option: str, why: str) -> None:
    """Raises ValueError if a boolean option of JAX is set, such as "jax_disable_jit".

    Args:
      option: its name; the environment variable's in capitals.
      why: what does not work with it, for the message.
    """
    if getattr(jax.config, option, False):
        raise ValueError(f"{option.upper()} is set, and {why}; unset it.")


def require_seed(name: str, value: Any) -> int:
    """Returns `value` as an int in [0, 2³²), in which all random numbers tell seeds apart.

    Args:
      name: argument's name, as the caller spells it.
      value: what was given.

    Raises:
      TypeError: `value` is not an integer.
      ValueError: it is below 0, or 2³² or more.
    """
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{name}={value!r}: a seed is an integer; pass one such as {name}=0.")
    if not 0 <= number < 1 << 32:
        raise ValueError(
            f"{name}={number}: a seed lies in [0, {1 << 32}); pass one such as {name}=0."
        )
    return number


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Returns a hint such as `; did you mean 'SlowMo'?`, or the known names."""
    names = sorted(known)
    return did_you_mean(name, names) or f"the known names are: {', '.join(names)}."


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Returns `did you mean 'SlowMo'?`, or None if no known name is near."""
    lowered = {known_name.lower(): known_name for known_name in known}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return f"did you mean {lowered[close[0]]!r}?" if close else None


def require_choice(what: str, name: str, known: Iterable[str]) -> str:
    """Returns `name` if it is among `known`.

    Raises:
      ValueError: it is not; the nearest known name is suggested.
    """
    known = list(known)
    if name not in known:
        raise ValueError(f"{what} {name!r} is not known; {nearest_name(name, known)}")
    return name


def require_same_workers(name: str, built_for: int | None, found: int) -> None:
    """Raises ValueError if a rule that knows one K only is given another.

    Args:
      name: of the rule.
      built_for: the only K it works for, or None.
      found: K.
    """
    if built_for not in (None, found):
        raise ValueError(
            f"{name} was built for num_workers={built_for} and gets the deltas of num_workers="
            f"{found}: K is part of theta's shape; meta-train another one for num_workers={found}, "
            "or use LOptA, which works for every K."
        )
