"""The problem that gin's bindings describe."""

from __future__ import annotations

import gin

from comm_lopt.data.feeding.partition import Partition
from comm_lopt.meta_test.problem import Problem
from comm_lopt.tasks.compression import Compression
from comm_lopt.upstream import TaskFamily

__all__ = ["meta_test_problem"]


@gin.configurable(module="comm_lopt")
def meta_test_problem(
    task_family: TaskFamily = gin.REQUIRED,
    num_workers: int = gin.REQUIRED,
    num_local_steps: int = gin.REQUIRED,
    num_rounds: int = gin.REQUIRED,
    heldout_split: str = "test",
    partition: Partition | None = None,
    participation: float | None = None,
    compression: Compression | None = None,
) -> Problem:
    """See `Problem`."""
    return Problem(
        task_family,
        num_workers,
        num_local_steps,
        num_rounds,
        heldout_split=heldout_split,
        partition=partition,
        participation=participation,
        compression=compression,
    )
