"""Optimizers that are in no registry of ours: optax's, upstream's, and one's own through gin."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import gin
import optax

from comm_lopt.checks import require_choice
from comm_lopt.upstream import LearnedOptimizer, Optimizer

__all__ = ["learned_class", "made_by_name"]

_OPTAX = "optax."
_TRANSFORMATION = "GradientTransformation"
# Of what is registered with gin by these, only optimizers' classes are optimizers.
_OTHERS = ("comm_lopt", "learned_optimization", "gin")


def made_by_name(name: str, known: Iterable[str]) -> Callable[..., Any]:
    """A function that makes an optax transformation, or a class of optimizers.

    Names come from files as well, so nothing is imported, and nothing is returned that does
    something else when it is called.

    Args:
      name: "optax.lion", or what one's own function or class is called in gin.
      known: the registry's names, for the message.

    Raises:
      ValueError: there is none; the nearest known name is suggested.
    """
    short = name.removeprefix(_OPTAX)
    if short != name:
        module = optax.contrib if short.startswith("contrib.") else optax
        make: Any = getattr(module, short.removeprefix("contrib."), None)
        if _makes_transformations(make):
            return make
        aliases = [alias for alias, made in vars(optax).items() if _makes_transformations(made)]
        known = [*known, *(_OPTAX + alias for alias in aliases)]
    else:
        make = _of_gin(name)
        if isinstance(make, type) and issubclass(make, (Optimizer, LearnedOptimizer)):
            return make
        foreign = getattr(make, "__module__", "").partition(".")[0] not in _OTHERS
        if foreign and _makes_transformations(make):
            return make
    require_choice("optimizer", name, [other for other in known if other != name])
    raise AssertionError  # Not reached: the name was taken out of the choices.


def learned_class(name: Any) -> type[LearnedOptimizer] | None:
    """One's own or upstream's class of learned optimizers, by its name in gin; None if it is none.

    Only what is imported and registered with `@gin.configurable` already is found.
    """
    found = _of_gin(name)
    return found if isinstance(found, type) and issubclass(found, LearnedOptimizer) else None


def _of_gin(name: Any) -> Any:
    try:
        return gin.get_configurable(name)
    except Exception:  # What a name from a file makes gin raise is an open list.
        return None


def _makes_transformations(make: Any) -> bool:
    """Whether it is a function that says so, or says nothing about what it returns."""
    if not inspect.isfunction(inspect.unwrap(make) if callable(make) else make):
        return False
    returns = inspect.signature(make).return_annotation
    return returns is inspect.Signature.empty or _TRANSFORMATION in str(returns)
