"""Lets one gin file configure upstream's trainer in either of its shapes.

A file that says `include 'outer_training.gin'` gets the one written for the upstream that is here,
because its folder is on gin's search path.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import gin

from comm_lopt.upstream import _ready

__all__ = ["GIN_DIR", "expand_macros", "heldout_split_to_flag", "register"]

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
    """Replaces `%name` by what it stands for; a hook for `gin.finalize`.

    Upstream's `run_train` moves all bindings to one scope, the one called "default_scope". Gin
    keeps a macro's name as the scope of its binding, so the move would leave every macro but the
    last without a value. What a binding means is not changed by this.

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


def register() -> None:
    """Puts `GIN_DIR` on gin's search path and has `gin.finalize` expand macros."""
    gin.add_config_file_search_path(str(GIN_DIR))
    gin.config.register_finalize_hook(expand_macros)
