"""Gives JAX back the names that upstream still uses and that JAX has since removed.

Only names that are missing are added, each with the meaning it had. A name that is there, even
one that JAX calls deprecated, is left as it is, so on a JAX that has them all this does nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.core
import jax.lib
import jax.numpy as jnp
import jax.tree_util
from jaxlib import xla_client

__all__ = ["add_missing_jax_names"]


def _under_a_jit() -> bool:
    """Whether the caller is being traced by `jax.jit`, `scan` or the like.

    Inside such a trace even a constant is a tracer; under `vmap` or `grad` alone it is not.
    """
    return isinstance(jnp.zeros(()), jax.core.Tracer)


def _shaped_array() -> Any:
    # JAX offers no other public name for this class, and still uses it under this one.
    from jax._src.core import ShapedArray

    return ShapedArray


# Values are made only when the name is missing, because making one may touch a private module.
_NAMES: tuple[tuple[ModuleType, str, Callable[[], Any]], ...] = (
    (jax, "tree_flatten", lambda: jax.tree_util.tree_flatten),
    (jax, "tree_leaves", lambda: jax.tree_util.tree_leaves),
    (jax, "tree_map", lambda: jax.tree_util.tree_map),
    (jax, "tree_multimap", lambda: jax.tree_util.tree_map),
    (jax, "tree_structure", lambda: jax.tree_util.tree_structure),
    (jax, "tree_unflatten", lambda: jax.tree_util.tree_unflatten),
    (jax.tree_util, "tree_multimap", lambda: jax.tree_util.tree_map),
    (jax.core, "ShapedArray", _shaped_array),
    (jax, "ShapedArray", _shaped_array),
    (jax.core, "unsafe_am_i_under_a_jit_DO_NOT_USE", lambda: _under_a_jit),
    # It was an alias of this very module, so code that probes it finds what it always found.
    (jax.lib, "xla_client", lambda: xla_client),
)


def add_missing_jax_names() -> list[str]:
    """Adds to `jax` and its modules what upstream needs and they lack.

    Returns:
      The full names that were added, such as "jax.tree_map"; on a second call, none.
    """
    added = []
    with warnings.catch_warnings():
        # Asking for a name that JAX deprecates warns, and this only asks.
        warnings.simplefilter("ignore", DeprecationWarning)
        for module, name, make in _NAMES:
            if not hasattr(module, name):
                setattr(module, name, make())
                added.append(f"{module.__name__}.{name}")
    return added
