"""What methods are compared on."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any, cast

import jax

from comm_lopt.checks import require_at_least_one, require_range
from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.feeding.partition import Partition
from comm_lopt.data.feeding.rounds import RoundIterator, round_datasets
from comm_lopt.gin_state import OperativeSetting, operative_settings
from comm_lopt.hyperparameters import one_line, plain
from comm_lopt.meta_test.check_results import LARGEST_NUM_ROUNDS
from comm_lopt.meta_test.evaluation import EvaluationPart, evaluation_part
from comm_lopt.tasks.compression import Compression, checked_compression
from comm_lopt.tasks.round_settings import checked_participation
from comm_lopt.upstream import Datasets, LearnedOptimizer, Optimizer, TaskFamily

__all__ = ["Problem", "batch_size_of", "differences"]

_MAX_HELDOUT = 10_000
_MAX_TRAIN = 2_000

# Settings that describe the optimizer, its meta-training or the run, by the module they are of.
_OF_NO_PROBLEM = (
    "comm_lopt.meta_test",
    "comm_lopt.meta_train",
    "comm_lopt.optimizers",
    "comm_lopt.tasks.local_optimizers",
    "comm_lopt.tasks.local_sgd",
    "comm_lopt.upstream",
    "learned_optimization",
)
_UPSTREAMS_TASKS = ("learned_optimization.tasks",)
# Where data lie; what they are is told by their digest.
_PLACES = (".folder", ".path")


@dataclasses.dataclass(frozen=True)
class Problem:
    """A task trained for T rounds by K workers with H local steps each.

    Attributes:
      task_family: the inner task family, not yet wrapped.
      num_workers: K.
      num_local_steps: H.
      num_rounds: T.
      heldout_split: split on which the weights are evaluated.
      partition: how the training examples are divided among the workers; None: not at all.
      participation: how many workers take part in a round; see `LocalSGDTaskFamily`.
      compression: what a worker sends in place of its delta; see there.

    Raises:
      ValueError: K, H or T below 1, more rounds than results hold (10⁶), a task without data, or
        more workers taking part than K.
    """

    task_family: TaskFamily
    num_workers: int
    num_local_steps: int
    num_rounds: int
    heldout_split: str = "test"
    partition: Partition | None = None
    participation: float | None = None
    compression: Compression | None = None

    def __post_init__(self) -> None:
        counted = {
            "num_workers": "workers",
            "num_local_steps": "local steps",
            "num_rounds": "rounds",
        }
        for name, meaning in counted.items():
            number = require_at_least_one(name, getattr(self, name), meaning)
            object.__setattr__(self, name, number)
        require_range("num_rounds", self.num_rounds, 1, LARGEST_NUM_ROUNDS)
        checked_participation(self.participation, self.num_workers)
        checked_compression(self.compression)
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

    @functools.cached_property
    def heldout_part(self) -> EvaluationPart:
        """The held-out examples, at most 10,000."""
        return evaluation_part(self.task_family.datasets, self.heldout_split, _MAX_HELDOUT)

    @functools.cached_property
    def train_part(self) -> EvaluationPart:
        """At most 2,000 training examples, on which all methods' weights are evaluated."""
        return evaluation_part(self.task_family.datasets, "train", _MAX_TRAIN)

    def describe(self) -> dict[str, Any]:
        """What results record of a problem, as JSON values.

        "settings" are gin's of all that was called so far and is no optimizer, by name.
        """
        datasets = self.task_family.datasets

        def params(key: jax.Array) -> Any:
            return self.task_family.task_fn(self.task_family.sample(key)).init_with_state(key)[0]

        leaves = jax.tree.leaves(jax.eval_shape(params, jax.random.PRNGKey(0)))
        return {
            "task": one_line(self.task_family.name),
            "num_parameters": sum(math.prod(leaf.shape) for leaf in leaves),
            "num_workers": int(self.num_workers),
            "num_local_steps": int(self.num_local_steps),
            "local_batch_size": batch_size_of(datasets),
            "num_rounds": int(self.num_rounds),
            "heldout_split": self.heldout_split,
            "partition": _told(self.partition),
            "worker_parts": self.part_sizes(),
            "participation": plain(self.participation),
            "compression": _told(self.compression),
            "data": datasets.digest if isinstance(datasets, ExampleDatasets) else None,
            "settings": {
                # The scope says by which macro it was reached.
                setting.binding: setting.text
                for setting in operative_settings()
                if _of_the_problem(setting)
            },
        }


def differences(saved: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between two descriptions of problems, in lines for people.

    Settings that only one of them has are passed over: a process may have called more.
    """
    lines = []
    # Files from before there was any say nothing of it.
    saved = {"compression": None, **saved}
    for name, value in here.items():
        if name == "settings":
            lines += differences(saved.get(name, {}), value)
        elif name in saved and saved[name] != value and not name.endswith(_PLACES):
            lines.append(f"{name}: {saved[name]!s:.100} there, {value!s:.100} here")
    return lines


def _told(given: Any) -> str | None:
    """A partition or a compression as text that is the same in every process."""
    return None if given is None else re.sub(r" at 0x\w+", "", repr(given))


def _of_the_problem(setting: OperativeSetting) -> bool:
    """Whether a setting is of a task or its data; a macro's value stands where it is used."""
    made = setting.configurable
    if isinstance(made, type) and issubclass(made, (LearnedOptimizer, Optimizer)):
        return False
    return _lies_in(made, _UPSTREAMS_TASKS) or not _lies_in(made, _OF_NO_PROBLEM)


def _lies_in(made: Any, packages: tuple[str, ...]) -> bool:
    module = str(made.__module__)
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def batch_size_of(datasets: Datasets) -> int | None:
    """B, where the data sets say it."""
    batch_size = getattr(datasets.train, "batch_size", None)
    if batch_size is not None:
        return int(batch_size)
    leaves = jax.tree.leaves(datasets.abstract_batch)
    return int(leaves[0].shape[0]) if leaves and leaves[0].shape else None
