"""Steps of tensors that are sharded over a mesh whose axes are Explicit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, auto_axes

__all__ = ["in_auto_mode"]

PyTree = Any


def in_auto_mode(step: Callable[..., tuple[jax.Array, PyTree]]) -> Callable[..., Any]:
    """Lets XLA decide how a tensor's step is sharded, under an Explicit mesh as under an Auto one.

    In Explicit mode a reshape that mixes axes is refused, and an update in tiles mixes all of
    them. The step and the accumulators come back sharded as the parameter and the accumulators
    that went in.

    Args:
      step: a method of (theta, param, delta, gradients, accumulators, ...) that returns an array
        like the parameter and the accumulators.
    """

    @functools.wraps(step)
    def wrapped(
        self: Any, theta: PyTree, *arrays: PyTree, **options: Any
    ) -> tuple[jax.Array, PyTree]:
        mesh = jax.sharding.get_abstract_mesh()
        if AxisType.Explicit not in mesh.axis_types:
            return step(self, theta, *arrays, **options)
        param, accumulators = arrays[0], arrays[3]
        shardings = jax.tree.map(lambda a: jax.typeof(a).sharding.spec, (param, accumulators))
        explicit = tuple(
            name
            for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
            if kind == AxisType.Explicit
        )
        function = functools.partial(step, self, **options)
        return auto_axes(function, axes=explicit, out_sharding=shardings)(theta, *arrays)

    return wrapped
