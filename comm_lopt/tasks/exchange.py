"""Where arrays of workers lie on a mesh, so that what crosses between devices is what was meant.

Without a mesh that has a `WORKER_AXIS`, and on one device, all of it changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

__all__ = ["WORKER_AXIS", "each_on_its_device", "in_parts", "on_every_device", "parts_of"]

PyTree = Any

WORKER_AXIS = "workers"


def parts_of(shape: tuple[int, ...], leading: int, num_devices: int) -> PartitionSpec:
    """Divides [..., *s] along the longest axis of s that the devices divide, if any.

    Args:
      shape: s.
      leading: how many axes stand before s.
      num_devices: along `WORKER_AXIS`.
    """
    axes = [axis for axis, size in enumerate(shape) if size and size % num_devices == 0]
    if not axes:
        return PartitionSpec()
    longest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * (leading + longest), WORKER_AXIS)


def each_on_its_device(function: Callable[[Any], PyTree], array: Any) -> PyTree:
    """A function of an array [K, ...] that treats each worker alone, without any exchange.

    Left to itself the compiler would gather what it cannot divide, such as a sort.

    Args:
      function: to a tree of arrays [K, ...].
      array: [K, ...].
    """
    if not _num_devices():
        return function(array)
    own = PartitionSpec(WORKER_AXIS)
    return jax.shard_map(function, in_specs=own, out_specs=own, axis_names={WORKER_AXIS})(array)


def in_parts(array: jax.Array) -> jax.Array:
    """[n, *s] divided along s, see `parts_of`: every device has all n of its part of s."""
    count = _num_devices()
    if not count:
        return array
    return jax.lax.with_sharding_constraint(array, parts_of(array.shape[1:], 1, count))


def on_every_device(array: jax.Array) -> jax.Array:
    """The whole array on every device."""
    return jax.lax.with_sharding_constraint(array, PartitionSpec()) if _num_devices() else array


def _num_devices() -> int:
    """Devices among which the compiler divides the workers, or 0 if it does not."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    count: int = mesh.shape[WORKER_AXIS] if kinds.get(WORKER_AXIS) == AxisType.Auto else 0
    return count if count > 1 else 0
