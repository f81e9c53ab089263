"""Local SGD as a task family, around any other: one training step is a communication round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gin
import jax
import jax.numpy as jnp
import numpy as np

from comm_lopt.checks import require_at_least_one
from comm_lopt.data.feeding.partition import Partition
from comm_lopt.data.feeding.positions import part_sizes
from comm_lopt.data.feeding.rounds import round_datasets
from comm_lopt.tasks.compression import Compression, checked_compression
from comm_lopt.tasks.local_optimizers import local_sgd
from comm_lopt.tasks.local_sgd_task import LocalSGDTask
from comm_lopt.tasks.round_settings import (
    LocalOptimizer,
    built_local_opt,
    checked_participation,
    checked_rate,
)
from comm_lopt.upstream import Datasets, TaskFamily

__all__ = ["LocalSGDTaskFamily"]

PyTree = Any


@gin.configurable(module="comm_lopt")
class LocalSGDTaskFamily(TaskFamily):
    """Wraps a task family so that one training step is one communication round.

    Args:
      task_family: any upstream task family; its batches may have any structure.
      num_workers: K.
      num_local_steps: H.
      local_opt: makes the optimizer of the local steps from a `learning_rate`, such as
        `local_sgd` or `optax.adamw`; or an optax transformation as it is.
      local_learning_rate: γ; that of `local_opt`, by its gin binding or default, if None. Given
        as (smallest, largest), each task draws its own, log-uniformly.
      local_state_persists: whether each worker keeps its local optimizer state from round to
        round, as DiLoCo's do; otherwise it begins afresh.
      worker_deltas: also hand the K worker deltas to the rule (LAgg needs them), through the
        model state; see `RoundState`.
      partition: divides the training examples among the workers, such as `DirichletParts(0.1)`;
        the workers then count by their numbers of examples, as in FedAvg. None lets every worker
        draw from all of them (the paper's setting).
      participation: how many workers take part in a round, drawn anew each round: a count from 1
        to K, or a fraction of K between 0 and 1; None: all.
      worker_squares: also hand the mean over workers of their deltas' squares to the rule (LAggR
        needs it), as `worker_deltas` does.
      compression: what a worker sends in place of its delta, such as `Int8()` or `TopK(0.01)`; the
        rule sees what is received. None sends all of it.
      steered: whether local steps heed a rule that steers their learning rate (`Steering`). False
        leaves γ as it is given or drawn, for meta-training on many of them.

    Raises:
      ValueError: K or H below 1, a worker's part smaller than a batch, a range that is none above
        0, a rate beside an optax transformation, or more workers taking part than there are.
      TypeError: `task_family` is no `TaskFamily`, `local_opt` makes no optax transformation, or
        `compression` is none.
    """

    kind: ClassVar[str] = "LocalSGD"
    task_class: ClassVar[type[LocalSGDTask]] = LocalSGDTask

    def __init__(
        self,
        task_family: TaskFamily,
        num_workers: int = 8,
        num_local_steps: int = 4,
        local_opt: LocalOptimizer = local_sgd,
        local_learning_rate: float | Sequence[float] | None = None,
        local_state_persists: bool = False,
        worker_deltas: bool = False,
        partition: Partition | None = None,
        participation: float | None = None,
        worker_squares: bool = False,
        steered: bool = True,
        compression: Compression | None = None,
    ):
        if not isinstance(task_family, TaskFamily):
            raise TypeError(
                f"task_family={task_family!r} is not a TaskFamily; turn a single Task into one "
                "with learned_optimization.tasks.base.single_task_to_family(task)."
            )
        self.inner = task_family
        self.num_workers = require_at_least_one("num_workers", num_workers, "workers")
        self.num_local_steps = require_at_least_one(
            "num_local_steps", num_local_steps, "local steps"
        )
        self.local_opt = local_opt
        self.local_learning_rate = checked_rate(local_opt, local_learning_rate)
        self.local_state_persists = local_state_persists
        self.worker_deltas = worker_deltas
        self.worker_squares = worker_squares
        self.steered = steered
        self.compression = checked_compression(compression)
        self.partition = partition
        self.participation = checked_participation(participation, self.num_workers)
        self.datasets: Datasets | None = round_datasets(
            task_family.datasets, self.num_workers, self.num_local_steps, partition
        )
        sizes = part_sizes(self.datasets)
        self._part_sizes = None if sizes is None else np.asarray(sizes, np.float32)

    @property
    def name(self) -> str:
        """`kind`, and the inner family's name behind it."""
        return f"{self.kind}_{self.inner.name}"

    def worker_weights(self, key: jax.Array) -> jax.Array | None:
        """Weights of the workers in a round, [K], or None if all count the same.

        Args:
          key: random key, with which those who take part are drawn.
        """
        if self._part_sizes is None and self.participation is None:
            return None
        sizes = np.ones(self.num_workers, np.float32)
        weights = jnp.asarray(sizes if self._part_sizes is None else self._part_sizes)
        if self.participation is None:
            return weights
        place = jax.random.permutation(key, self.num_workers)
        return jnp.where(place < self.participation, weights, 0.0)

    def sample(self, key: jax.Array) -> PyTree:
        """The inner family's configuration, a tree, and γ, a scalar, beside it if that is drawn."""
        if not isinstance(self.local_learning_rate, tuple):
            return self.inner.sample(key)
        inner_key, rate_key = jax.random.split(key)
        low, high = (jnp.log(jnp.float32(rate)) for rate in self.local_learning_rate)
        rate = jnp.exp(jax.random.uniform(rate_key, (), jnp.float32, low, high))
        return {"inner": self.inner.sample(inner_key), "local_learning_rate": rate}

    def task_fn(self, cfg: PyTree) -> LocalSGDTask:
        """The task of one configuration, a tree as `sample` returns it."""
        rate: Any = self.local_learning_rate
        if isinstance(rate, tuple):
            cfg, rate = cfg["inner"], cfg["local_learning_rate"]
        local_opt = built_local_opt(self.local_opt, rate)
        return self.task_class(self, self.inner.task_fn(cfg), local_opt)
