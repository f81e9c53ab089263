"""Every task family by name. A new one is a new file and one line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from comm_lopt.checks import require_choice
from comm_lopt.tasks.image_mlp import digits_mlp
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


TASKS: Mapping[str, TaskEntry] = {
    "digits_mlp": TaskEntry(digits_mlp, "scikit-learn's 8x8 digits (bundled)", "MLP 64-32-10"),
}


def task_entry(name: str) -> TaskEntry:
    """Returns the entry of a task.

    Raises:
      ValueError: no task of that name; the nearest known name is suggested.
    """
    return TASKS[require_choice("task", name, TASKS)]
