"""Data-parallel training as a task family: one step per communication on the whole batch."""

from __future__ import annotations

from typing import Any

from comm_lopt.tasks.local_round import RoundOutput, WorkersOutput
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily
from comm_lopt.tasks.local_sgd_task import LocalSGDTask, RoundStart
from comm_lopt.tasks.union import gradient_of_each, union_gradient

__all__ = ["DataParallelTaskFamily"]

PyTree = Any


class DataParallelTask(LocalSGDTask):
    """One data-parallel step: loss and gradient are those of all K·H·B examples.

    `data` has the same [K, H, ...] form as for local SGD, so that both see the same examples a
    round.
    """

    def _work(self, start: RoundStart, params: PyTree, data: PyTree) -> WorkersOutput:
        family = self._family
        return gradient_of_each(
            self.inner, params, start.model_state, start.key, data, family.num_workers,
            family.num_local_steps,
        )  # fmt: skip

    def _local_round(self, start: RoundStart, params: PyTree, data: PyTree) -> RoundOutput:
        family = self._family
        if family.compression is not None:
            # What is compressed is each worker's own gradient.
            return super()._local_round(start, params, data)
        return union_gradient(
            self.inner, params, start.model_state, start.key, data, family.num_workers,
            family.num_local_steps, start.weights,
        )  # fmt: skip


class DataParallelTaskFamily(LocalSGDTaskFamily):
    """The same problem as a `LocalSGDTaskFamily`, trained data-parallel.

    Each communication exchanges gradients instead of weight changes: the workers spend the
    K·H batches of a round on one large batch, at the weights they all share. No local
    optimizer takes part. A compression is of each worker's gradient.

    Raises:
      ValueError: worker deltas, their squares or lasting local states are asked for, which there
        are none of.
    """

    kind = "DataParallel"
    task_class = DataParallelTask

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.worker_deltas or self.worker_squares or self.local_state_persists:
            raise ValueError(
                "data-parallel workers take no local steps, so that there are no worker deltas or "
                "local optimizer states to hand on; leave worker_deltas, worker_squares and "
                "local_state_persists False, or use LocalSGDTaskFamily."
            )
