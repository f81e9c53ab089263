"""Which workers are on which device, and arrays that lie on all of them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from comm_lopt.checks import require_at_least_one
from comm_lopt.tasks.local_round import WORKER_AXIS

__all__ = ["WorkerDevices"]

PyTree = Any


class WorkerDevices:
    """K workers on all devices of all processes: equally many on each, in the order of processes.

    Args:
      num_workers: K.

    Raises:
      ValueError: K cannot be divided among the devices.
    """

    def __init__(self, num_workers: int):
        self.num_workers = require_at_least_one("num_workers", num_workers, "workers")
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        if num_workers % len(devices):
            each = len(devices) // jax.process_count()
            raise ValueError(
                f"num_workers={num_workers} cannot be divided among {len(devices)} devices "
                f"({jax.process_count()} processes of {each}); take a multiple of them, or other "
                "numbers of processes or devices."
            )
        self.per_device = num_workers // len(devices)
        self.mesh = Mesh(np.array(devices), (WORKER_AXIS,), axis_types=(AxisType.Auto,))
        self._replicated = NamedSharding(self.mesh, PartitionSpec())
        self._of_workers = NamedSharding(self.mesh, PartitionSpec(WORKER_AXIS))

    @functools.cached_property
    def own(self) -> range:
        """The workers of this process."""
        devices = self.mesh.devices.flat
        mine = [
            n for n, device in enumerate(devices) if device.process_index == jax.process_index()
        ]
        return range(mine[0] * self.per_device, (mine[-1] + 1) * self.per_device)

    def process_of(self, worker: int) -> int:
        """The process that a worker is of."""
        process: int = self.mesh.devices.flat[worker // self.per_device].process_index
        return process

    def sharded(self, own: PyTree) -> PyTree:
        """Arrays [K, ...] of which this process has its own workers' part, [k, ...] on the host."""
        return jax.tree.map(self._assembled, own)

    def replicated(self, tree: PyTree) -> PyTree:
        """Arrays, equal in all processes, on every device."""
        return jax.tree.map(lambda leaf: _placed(leaf, self._replicated), tree)

    def placed_like(self, whole: PyTree, template: PyTree) -> PyTree:
        """Whole arrays, equal in all processes, placed as those of `template` are."""

        return jax.tree.map(
            lambda leaf, like: _placed(np.asarray(leaf, like.dtype), like.sharding), whole, template
        )

    def to_host(self, tree: PyTree) -> PyTree:
        """The whole arrays in every process, those of the workers too; all processes call it."""
        return jax.tree.map(self._whole, tree)

    def _assembled(self, leaf: np.ndarray) -> jax.Array:
        shape = (self.num_workers, *leaf.shape[1:])
        return jax.make_array_from_process_local_data(self._of_workers, np.asarray(leaf), shape)

    def _whole(self, leaf: Any) -> np.ndarray:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return np.asarray(leaf)
        if leaf.is_fully_replicated:
            return np.asarray(leaf.addressable_data(0))
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def _placed(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """A whole array, equal in all processes, of which each device gets its part."""
    array = np.asarray(leaf)
    return jax.make_array_from_callback(array.shape, sharding, lambda i: array[i])
