"""Data-parallel training as a task family: one step per communication on the whole batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from comm_lopt.tasks.local_round import mean_over_workers
from comm_lopt.tasks.local_sgd import LocalSGDTask, LocalSGDTaskFamily, over_batches
from comm_lopt.upstream import Task

__all__ = ["DataParallelTaskFamily"]

PyTree = Any


class DataParallelTask(LocalSGDTask):
    """One data-parallel step: the gradient is that of the loss on all K·H·B examples."""

    def loss_with_state(
        self, params: PyTree, state: PyTree, key: jax.Array, data: PyTree
    ) -> tuple[jax.Array, PyTree]:
        """Returns the loss over the union of the K·H batches, and the averaged model state.

        The gradient with respect to `params` is the ordinary one. `data` has the same
        [K, H, ...] form as for local SGD, so that both see the same examples a round.
        """

        def one_batch(batch_key: jax.Array, batch: PyTree) -> tuple[jax.Array, PyTree]:
            return self.inner.loss_with_state(params, state, batch_key, batch)

        losses, states = over_batches(one_batch, key, data, self._family.batches_per_round)
        return jnp.mean(losses), mean_over_workers(states)


class DataParallelTaskFamily(LocalSGDTaskFamily):
    """The same problem as a `LocalSGDTaskFamily`, trained data-parallel.

    Each communication exchanges gradients instead of weight changes: the workers spend the
    K·H batches of a round on one large batch, at the weights they all share. No local
    optimizer takes part.
    """

    @classmethod
    def of(cls, family: LocalSGDTaskFamily) -> DataParallelTaskFamily:
        """The data-parallel twin of `family`: same inner family, K, H and batches."""
        return cls(
            family.inner,
            family.num_workers,
            family.num_local_steps,
            family.local_opt,
            partition=family.partition,
        )

    @property
    def name(self) -> str:
        return f"DataParallel_{self.inner.name}"

    def _task(self, inner: Task, local_opt: optax.GradientTransformation) -> DataParallelTask:
        return DataParallelTask(self, inner, local_opt)
