"""Lets one gin file configure upstream's trainer in either of its shapes.

A file that says `include 'outer_training.gin'` gets the one written for the upstream that is here
(see `comm_lopt.config`). Gin is one for the whole process, so what is done to it here touches
nobody else's configuration: macros are expanded for upstream's `run_train` alone.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import gin
import jax
from learned_optimization import outer_train

from comm_lopt.gin_state import MACRO, bindings, expanded, forget_macros
from comm_lopt.upstream import _ready

__all__ = [
    "GIN_DIR",
    "expand_macros",
    "heldout_split_to_flag",
    "local_device_count",
    "register",
]

GIN_DIR: pathlib.Path = pathlib.Path(__file__).resolve().parent / "gin" / _ready.FLAVOUR
"""Folder of the gin files for the upstream that is here."""


@gin.configurable
def heldout_split_to_flag(split: str | None = None) -> bool:
    """Says "which split the meta-loss uses" the way 0.0.1 wants it said.

    The released estimators know two cases: the meta-loss is the training loss, or it is the loss
    on the split "outer_valid".

    Args:
      split: None for the training loss, or "outer_valid".

    Returns:
      The value of 0.0.1's `train_and_meta`.

    Raises:
      ValueError: any other split.
    """
    if split not in (None, "outer_valid"):
        raise ValueError(
            f"meta_loss_split={split!r}: learned_optimization 0.0.1 computes the meta-loss from "
            "the training data (None) or from the split 'outer_valid'; pass one of these, or use "
            "upstream's main branch."
        )
    return split is not None


@gin.configurable
def local_device_count() -> int:
    """The number of devices of this process, for gin files that spread work over all of them."""
    return jax.local_device_count()


def expand_macros(config: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[str, Any]:
    """Replaces `%name` by what it stands for, which changes no binding's meaning.

    Args:
      config: gin's configuration: (scope, selector) to argument to value.

    Returns:
      New values, by gin binding key, of the bindings in which a macro occurs.
    """
    updates = {}
    for (scope, selector), arguments in config.items():
        if selector == MACRO:
            continue
        for argument, value in arguments.items():
            new = expanded(value, config)
            if new is not value:
                key = f"{selector}.{argument}"
                updates[f"{scope}/{key}" if scope else key] = new
    return updates


def _with_macros_expanded(run_train: Callable[..., Any]) -> Callable[..., Any]:
    """Returns upstream's `run_train` for configurations with macros.

    It moves all of gin's bindings to one scope, the one called "default_scope". Gin keeps a
    macro's name as the scope of its binding, so the move would leave every macro but the last
    without a value. Upstream's `opt_from_checkpoint` does the like to the config.gin of a run.
    """

    @functools.wraps(run_train)
    def expand_and_run(*args: Any, **kwargs: Any) -> Any:
        with gin.unlock_config():
            for key, value in expand_macros(bindings()).items():
                gin.bind_parameter(key, value)
            forget_macros()  # They would stand in the run's config.gin, and do nothing there.
        return run_train(*args, **kwargs)

    return expand_and_run


def register() -> None:
    """Lets upstream's trainer take macros."""
    outer_train.run_train = _with_macros_expanded(outer_train.run_train)
