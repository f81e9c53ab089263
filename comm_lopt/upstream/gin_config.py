"""Lets one gin file configure upstream's trainer in either of its shapes.

A file that says `include 'outer_training.gin'` gets the one written for the upstream that is here,
because its folder is on gin's search path.

Gin is one for the whole process, so what is done to it here touches nobody else's configuration:
the search path grows at its end, and macros are expanded for upstream's `run_train` alone.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import gin
from learned_optimization import outer_train

from comm_lopt.upstream import _ready
from comm_lopt.upstream.quiet import expect_search_in

__all__ = ["GIN_DIR", "add_gin_dir", "expand_macros", "heldout_split_to_flag", "register"]

GIN_DIR: pathlib.Path = pathlib.Path(__file__).resolve().parent / "gin" / _ready.FLAVOUR
"""Folder of the gin files for the upstream that is here."""

_MACRO_SELECTOR = "gin.macro"


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


def expand_macros(config: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[str, Any]:
    """Replaces `%name` by what it stands for, which changes no binding's meaning.

    Args:
      config: gin's configuration: (scope, selector) to argument to value.

    Returns:
      New values, by gin binding key, of the bindings in which a macro occurs.
    """
    updates = {}
    for (scope, selector), arguments in config.items():
        if selector == _MACRO_SELECTOR:
            continue
        for argument, value in arguments.items():
            expanded = _expand(value, config)
            if expanded is not value:
                key = f"{selector}.{argument}"
                updates[f"{scope}/{key}" if scope else key] = expanded
    return updates


def _expand(value: Any, config: Mapping[tuple[str, str], Mapping[str, Any]]) -> Any:
    """Returns `value` itself if no macro occurs in it, or a copy without macros."""
    if isinstance(value, gin.config.ConfigurableReference):
        macro = config.get(value.config_key) if value.evaluate else None
        if macro is None or value.config_key[1] != _MACRO_SELECTOR or "value" not in macro:
            return value  # A macro that has no value is gin's to report, and it does.
        return _expand(macro["value"], config)
    if isinstance(value, dict):
        items = {key: _expand(item, config) for key, item in value.items()}
        return items if any(items[key] is not value[key] for key in value) else value
    if isinstance(value, (list, tuple)):
        expanded = [_expand(item, config) for item in value]
        changed = any(new is not old for new, old in zip(expanded, value, strict=True))
        return type(value)(expanded) if changed else value
    return value


def _with_macros_expanded(run_train: Callable[..., Any]) -> Callable[..., Any]:
    """Returns upstream's `run_train` for configurations with macros.

    It moves all of gin's bindings to one scope, the one called "default_scope". Gin keeps a
    macro's name as the scope of its binding, so the move would leave every macro but the last
    without a value. Upstream's `opt_from_checkpoint` does the like to the config.gin of a run.
    """

    @functools.wraps(run_train)
    def expand_and_run(*args: Any, **kwargs: Any) -> Any:
        with gin.unlock_config():
            for key, value in expand_macros(gin.config._CONFIG).items():
                gin.bind_parameter(key, value)
        return run_train(*args, **kwargs)

    return expand_and_run


def add_gin_dir(folder: pathlib.Path) -> None:
    """Puts a folder at the end of gin's search path."""
    gin.add_config_file_search_path(str(folder))
    expect_search_in(folder)


def register() -> None:
    """Puts `GIN_DIR` on gin's search path, and lets upstream's trainer take macros."""
    add_gin_dir(GIN_DIR)
    outer_train.run_train = _with_macros_expanded(outer_train.run_train)
