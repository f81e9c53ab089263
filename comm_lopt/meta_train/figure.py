"""A run's curves in one picture: meta-loss, its running mean, and validation."""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING

import numpy as np

from comm_lopt.meta_train.courses import RUNNING_MEAN, Course, read_courses
from comm_lopt.pictures import empty_figure, without_tex

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FIGURE_FILE", "draw", "write_figure"]

FIGURE_FILE = "meta_train.png"

_FEWEST_META_STEPS = 10
_LARGE_RANGE = 5.0


def draw(folder: pathlib.Path) -> None:
    """`write_figure`, whose failure is told and harms nothing."""
    try:
        write_figure(folder)
    # What fonts, styles and a full disk make Matplotlib raise is an open list.
    except Exception as error:
        print(f"no {FIGURE_FILE}: {type(error).__name__}: {error}", file=sys.stderr)


def write_figure(folder: pathlib.Path) -> pathlib.Path | None:
    """Draws what the logs of a run's folder hold, over meta-steps; of several families each.

    Returns:
      The picture's path; None for fewer than ten meta-steps, which are no curve to look at.
    """
    courses = read_courses(folder)
    if courses[0].meta_steps.size < _FEWEST_META_STEPS:
        return None
    with without_tex():
        figure = empty_figure(5.5 * len(courses), 4.0)
        for axes, course in zip(
            figure.subplots(1, len(courses), squeeze=False)[0], courses, strict=True
        ):
            _draw(axes, course)
        figure.axes[0].legend(frameon=False, fontsize=8)
        figure.savefig(folder / FIGURE_FILE, dpi=120, bbox_inches="tight")
    return folder / FIGURE_FILE


def _draw(axes: Axes, course: Course) -> None:
    axes.plot(course.meta_steps, course.meta_loss, color="0.75", linewidth=0.8, label="meta-loss")
    steps, means = course.running_mean
    if steps.size:
        axes.plot(steps, means, color="0.25", label=f"mean of {RUNNING_MEAN} meta-steps")
    drawn = [course.meta_loss]
    for (measure, values), marker in zip(course.validation.items(), ("o-", "s--"), strict=True):
        if values.size:
            label = f"validation: {measure}"
            axes.plot(course.validated, values, marker, markersize=4, label=label)
            drawn.append(values)
    seen = np.concatenate([values[np.isfinite(values)] for values in drawn])
    if seen.size and 0 < _LARGE_RANGE * seen.min() < seen.max():
        axes.set_yscale("log")
    axes.set_xlabel("meta-steps")
    axes.set_ylabel("training loss")
    axes.set_title(course.title.replace("$", r"\$"), fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
