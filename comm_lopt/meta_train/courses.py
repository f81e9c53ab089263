"""What the logs of a meta-training run say of its course."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from comm_lopt.meta_test.check_results import ResultsError
from comm_lopt.meta_train.log import METRICS_FILE, VALIDATION_FILE, of_family
from comm_lopt.meta_train.progress import RUNNING_MEAN

__all__ = ["RUNNING_MEAN", "Course", "read_courses"]

_MEASURES = {"mean_train_loss": "mean of a run", "final_train_loss": "its last 5 %"}


@dataclasses.dataclass(frozen=True)
class Course:
    """The losses of all task families, or of one.

    Attributes:
      title: the family, or what they are the mean of.
      meta_steps: [N].
      meta_loss: [N], not finite where a meta-step was not applied.
      validated: [V], meta-steps after which there was a validation.
      validation: both losses of a validation, [V] each, by what they are.
    """

    title: str
    meta_steps: np.ndarray
    meta_loss: np.ndarray
    validated: np.ndarray
    validation: Mapping[str, np.ndarray]

    @property
    def running_mean(self) -> tuple[np.ndarray, np.ndarray]:
        """Meta-steps, and the mean of the last `RUNNING_MEAN` finite meta-losses at each."""
        finite = np.isfinite(self.meta_loss)
        if finite.sum() < RUNNING_MEAN:
            return np.array([]), np.array([])
        windows = np.lib.stride_tricks.sliding_window_view(self.meta_loss[finite], RUNNING_MEAN)
        return self.meta_steps[finite][RUNNING_MEAN - 1 :], windows.mean(-1)


def read_courses(folder: pathlib.Path) -> list[Course]:
    """The course of a run: of all families, and then of each where there are several.

    Raises:
      FileNotFoundError: there are no logs.
      ResultsError: they are not those of a run.
    """
    metrics, validation = _columns(folder / METRICS_FILE), _columns(folder / VALIDATION_FILE)
    prefix = of_family("meta_loss", "")
    families = [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]
    found = []
    for family in [None, *families]:
        names = {name: name if family is None else of_family(name, family) for name in _MEASURES}
        loss = "meta_loss" if family is None else of_family("meta_loss", family)
        try:
            found.append(
                Course(
                    "mean of all tasks" if family is None else family,
                    metrics["meta_step"],
                    metrics[loss],
                    validation["meta_step"],
                    {told: validation[names[name]] for name, told in _MEASURES.items()},
                )
            )
        except KeyError as error:
            raise ResultsError(f"the logs in {folder} have no column {error}.") from error
    return found


def _columns(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The columns of a log, by name."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            names, *rows = csv.reader(file)
        table = np.array(rows, float).reshape(len(rows), len(names))
    except ValueError as error:
        raise ResultsError(f"{path} cannot be used: {error}") from error
    return dict(zip(names, table.T, strict=True))
