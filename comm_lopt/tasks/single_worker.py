"""One worker in place of K: H local steps, each on the K batches that the K workers would take."""

from __future__ import annotations

from typing import Any

import jax

from comm_lopt.tasks.local_round import RoundOutput, WorkersOutput, local_round
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily
from comm_lopt.tasks.local_sgd_task import LocalSGDTask, RoundStart
from comm_lopt.tasks.union import UnionTask, by_step

__all__ = ["SingleWorkerTaskFamily"]

PyTree = Any


class SingleWorkerTask(LocalSGDTask):
    """One round of one worker on the examples of all."""

    @property
    def num_local_optimizers(self) -> int:
        return 1

    def _work(self, *arguments: Any) -> WorkersOutput:
        del arguments
        raise NotImplementedError(
            "one worker on the examples of all has no part that each of K workers does alone; "
            "with num_workers=1 use LocalSGDTaskFamily, which is the same."
        )

    def _local_round(self, start: RoundStart, params: PyTree, data: PyTree) -> RoundOutput:
        family = self._family
        union = UnionTask(self.inner, family.num_workers, start.weights)
        batches = jax.tree.map(lambda leaf: leaf[None], by_step(data))
        return local_round(
            union, params, start.model_state, start.key, batches, start.local_opt, 1,
            family.num_local_steps, None, start.local_opt_states, family.worker_squares,
        )  # fmt: skip


class SingleWorkerTaskFamily(LocalSGDTaskFamily):
    """The same problem as a `LocalSGDTaskFamily`, for the methods of one worker.

    Lookahead, SNOO and DiLoCo with K = 1 train one model: a local step is a step on the union of
    the K batches of B examples, and a round has H of them, on the same K·H·B examples. Spread
    over K machines it would exchange gradients at every local step, H times a round.
    """

    kind = "SingleWorker"
    task_class = SingleWorkerTask

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.compression is not None:
            raise ValueError(
                f"compression={self.compression} is of the deltas of K workers, and one worker "
                "in place of K sends none; leave it None, or take a method of K workers."
            )
