"""JAX as upstream knew it: today's, and the names that JAX has removed since.

Upstream alone is shown these names: `optional_modules` has an `import` in upstream's code yield a
view of `jax`, and everyone else has the module itself, to which nothing is added. A name that JAX
still has, even a deprecated one, is JAX's own, so on a JAX that has them all a view differs in
nothing from its module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import jax.core
import jax.lib
import jax.numpy as jnp
import jax.tree_util
from jaxlib import xla_client

__all__ = ["JaxView", "as_upstream_sees"]


class JaxView(ModuleType):
    """A module of JAX to which names have been added; all else is read from the module itself.

    Args:
      module: what is viewed. What it holds that has a view is seen through that view.
      removed: how to make each name that upstream needs and the module may lack.
    """

    def __init__(self, module: ModuleType, removed: Mapping[str, Callable[[], Any]]) -> None:
        super().__init__(module.__name__, module.__doc__)
        self._module, self._removed = module, removed

    def __getattr__(self, name: str) -> Any:
        try:
            return as_upstream_sees(getattr(self._module, name))
        except AttributeError:
            if name not in self._removed:
                raise
        return self._removed[name]()


def as_upstream_sees(thing: Any) -> Any:
    """Returns the view of a module that has one, and anything else as it is."""
    return _VIEWS.get(thing, thing) if isinstance(thing, ModuleType) else thing


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
_VIEWS: Mapping[ModuleType, ModuleType] = {
    module: JaxView(module, removed)
    for module, removed in (
        (
            jax,
            {
                "ShapedArray": _shaped_array,
                "tree_flatten": lambda: jax.tree_util.tree_flatten,
                "tree_leaves": lambda: jax.tree_util.tree_leaves,
                "tree_map": lambda: jax.tree_util.tree_map,
                "tree_multimap": lambda: jax.tree_util.tree_map,
                "tree_structure": lambda: jax.tree_util.tree_structure,
                "tree_unflatten": lambda: jax.tree_util.tree_unflatten,
            },
        ),
        (
            jax.core,
            {
                "ShapedArray": _shaped_array,
                "unsafe_am_i_under_a_jit_DO_NOT_USE": lambda: _under_a_jit,
            },
        ),
        # It was an alias of this very module, so code that probes it finds what it always found.
        (jax.lib, {"xla_client": lambda: xla_client}),
        (jax.tree_util, {"tree_multimap": lambda: jax.tree_util.tree_map}),
    )
}
