"""What is compared: a problem, and the optimizers that are run on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

import optax

from comm_lopt.checks import require_at_least_one
from comm_lopt.data.partition import Partition
from comm_lopt.data.rounds import RoundIterator, round_datasets
from comm_lopt.optimizers.registry import OPTIMIZERS, optimizer_entry, require_hparam
from comm_lopt.tasks.data_parallel import DataParallelTaskFamily
from comm_lopt.tasks.local_optimizers import local_sgd
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily
from comm_lopt.upstream import Optimizer, TaskFamily

__all__ = ["LOCAL_LEARNING_RATE", "Candidate", "Problem", "baseline", "learned"]

LOCAL_LEARNING_RATE = "local_learning_rate"

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Problem:
    """A task trained for T rounds by K workers with H local steps each.

    Attributes:
      task_family: the inner task family, not yet wrapped.
      num_workers: K.
      num_local_steps: H.
      num_rounds: T.
      local_opt: the local optimizer for a local learning rate γ.
      heldout_split: split on which the weights are evaluated.
      partition: how the training examples are divided among the workers; None: not at all.
    """

    task_family: TaskFamily
    num_workers: int
    num_local_steps: int
    num_rounds: int
    local_opt: Callable[[Any], optax.GradientTransformation] = local_sgd
    heldout_split: str = "test"
    partition: Partition | None = None

    def __post_init__(self) -> None:
        require_at_least_one("num_workers", self.num_workers, "workers")
        require_at_least_one("num_local_steps", self.num_local_steps, "local steps")
        require_at_least_one("num_rounds", self.num_rounds, "rounds")
        if self.task_family.datasets is None:
            raise ValueError(
                f"task {self.task_family.name} has datasets=None: meta-testing draws a data "
                "order per seed and evaluates on a held-out split; use a task with datasets."
            )

    def rounds(self) -> RoundIterator:
        """The training batches, round by round."""
        datasets = round_datasets(
            self.task_family.datasets, self.num_workers, self.num_local_steps, self.partition
        )
        return cast(Any, datasets).train

    def part_sizes(self) -> list[int] | None:
        """Number of training examples of each worker, or None without a partition."""
        return self.rounds().part_sizes()


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An optimizer on its way into a comparison.

    Attributes:
      name: key in the results.
      make: global optimizer for given hyperparameters (without the local learning rate).
      hparams: values used where a sweep does not set them.
      kind: "learned", "local" or "data_parallel".
      worker_deltas: whether it needs each worker's delta.
      num_workers: the only K it works for, or None.
    """

    name: str
    make: Callable[..., Optimizer]
    hparams: Mapping[str, Any]
    kind: str
    worker_deltas: bool = False
    num_workers: int | None = None

    def check(self, problem: Problem) -> None:
        """Raises ValueError if the candidate cannot run on `problem`."""
        if self.num_workers not in (None, problem.num_workers):
            raise ValueError(
                f"{self.name} was built for num_workers={self.num_workers} and the problem has "
                f"num_workers={problem.num_workers}: K is part of its theta; meta-train another "
                "one, or use LOptA, which works for every K."
            )

    def build(
        self, problem: Problem, hparams: Mapping[str, Any]
    ) -> tuple[LocalSGDTaskFamily, Optimizer]:
        """The task family as this candidate trains on it, and the optimizer."""
        values = {**self.hparams, **hparams}
        local_opt = problem.local_opt(values.pop(LOCAL_LEARNING_RATE, 0.0))
        family = LocalSGDTaskFamily(
            problem.task_family,
            problem.num_workers,
            problem.num_local_steps,
            local_opt,
            self.worker_deltas,
            problem.partition,
            local_learning_rates=None,
        )
        if self.kind == "data_parallel":
            family = DataParallelTaskFamily.of(family)
        return family, self.make(**values)


def baseline(name: str, **hparams: Any) -> Candidate:
    """A hand-designed optimizer of the registry.

    Args:
      name: such as "SlowMo".
      **hparams: values; what is left out takes the class's default, and the local learning
        rate that of `local_sgd`.

    Raises:
      ValueError: an unknown name or hyperparameter, or a learned optimizer.
    """
    entry = optimizer_entry(name)
    if entry.kind == "learned":
        raise ValueError(
            f"{name} is learned: it runs with a theta; meta-train one and pass its folder."
        )
    for hparam in hparams:
        require_hparam(name, hparam)
    defaults = {LOCAL_LEARNING_RATE: 0.1} if LOCAL_LEARNING_RATE in entry.grid else {}
    return Candidate(name, entry.make, {**defaults, **hparams}, entry.kind)


def learned(learned_opt: Any, theta: PyTree, local_learning_rate: float) -> Candidate:
    """A learned optimizer with its theta.

    Args:
      learned_opt: an optimizer of the registry, such as `LOptA()`.
      theta: meta-parameters of that optimizer.
      local_learning_rate: γ; the one it was meta-trained with is the natural choice.
    """
    return Candidate(
        learned_opt.name,
        lambda: learned_opt.opt_fn(theta),
        {LOCAL_LEARNING_RATE: local_learning_rate},
        OPTIMIZERS[learned_opt.name].kind,
        learned_opt.needs_worker_deltas,
        learned_opt.num_workers,
    )
