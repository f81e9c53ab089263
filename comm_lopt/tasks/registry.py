"""Every task family by name. A new one is a new file and one line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from comm_lopt.checks import require_choice
from comm_lopt.tasks.digits import digits_mlp
from comm_lopt.tasks.fashion_mnist import (
    fashion_mnist_conv,
    fashion_mnist_mlp,
    fashion_mnist_mlp8,
)
from comm_lopt.upstream import TaskFamily

__all__ = ["TASKS", "TaskEntry", "task_entry"]


@dataclasses.dataclass(frozen=True)
class TaskEntry:
    """A task family in the registry.

    Attributes:
      make: builds the (inner) task family; its arguments are gin-configurable.
      data: where the examples come from.
      summary: one line for people.
    """

    make: Callable[..., TaskFamily]
    data: str
    summary: str


_FASHION_MNIST = "Fashion-MNIST (IDX files)"

TASKS: Mapping[str, TaskEntry] = {
    "digits_mlp": TaskEntry(digits_mlp, "scikit-learn's 8x8 digits (bundled)", "MLP 64-32-10"),
    "fashion_mnist_mlp": TaskEntry(fashion_mnist_mlp, _FASHION_MNIST, "MLP 784-128-128-10"),
    "fashion_mnist_mlp8": TaskEntry(fashion_mnist_mlp8, _FASHION_MNIST, "8x8, MLP 64-32-10"),
    "fashion_mnist_conv": TaskEntry(fashion_mnist_conv, _FASHION_MNIST, "convnet 32-64-64"),
}


def task_entry(name: str) -> TaskEntry:
    """Returns the entry of a task.

    Raises:
      ValueError: no task of that name; the nearest known name is suggested.
    """
    return TASKS[require_choice("task", name, TASKS)]
