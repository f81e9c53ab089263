"""A run's curves in one picture: meta-loss, its running mean, and validation."""

from __future__ import annotations

import csv
import pathlib
import sys
from typing import TYPE_CHECKING

import numpy as np

from comm_lopt.meta_train.log import METRICS_FILE, VALIDATION_FILE, of_family
from comm_lopt.meta_train.progress import RUNNING_MEAN
from comm_lopt.pictures import empty_figure, without_tex

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FIGURE_FILE", "draw", "write_figure"]

FIGURE_FILE = "meta_train.png"

_FEWEST_META_STEPS = 10
_LARGE_RANGE = 5.0

Columns = dict[str, np.ndarray]


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
    metrics, validation = _columns(folder / METRICS_FILE), _columns(folder / VALIDATION_FILE)
    if metrics["meta_step"].size < _FEWEST_META_STEPS:
        return None
    prefix = of_family("meta_loss", "")
    families = [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]
    with without_tex():
        figure = empty_figure(5.5 * (1 + len(families)), 4.0)
        panels = figure.subplots(1, 1 + len(families), squeeze=False)[0]
        for axes, family in zip(panels, [None, *families], strict=True):
            _draw(axes, metrics, validation, family)
        panels[0].legend(frameon=False, fontsize=8)
        figure.savefig(folder / FIGURE_FILE, dpi=120, bbox_inches="tight")
    return folder / FIGURE_FILE


def _draw(axes: Axes, metrics: Columns, validation: Columns, family: str | None) -> None:
    def named(measure: str) -> str:
        return measure if family is None else of_family(measure, family)

    steps, losses = metrics["meta_step"], metrics[named("meta_loss")]
    axes.plot(steps, losses, color="0.75", linewidth=0.8, label="meta-loss")
    drawn = [losses]
    finite = np.isfinite(losses)
    if finite.sum() >= RUNNING_MEAN:
        windows = np.lib.stride_tricks.sliding_window_view(losses[finite], RUNNING_MEAN)
        axes.plot(
            steps[finite][RUNNING_MEAN - 1 :],
            windows.mean(-1),
            color="0.25",
            label=f"mean of {RUNNING_MEAN} meta-steps",
        )
    for measure, marker, label in (
        ("mean_train_loss", "o-", "validation: mean of a run"),
        ("final_train_loss", "s--", "validation: its last 5 %"),
    ):
        values = validation[named(measure)]
        if values.size:
            axes.plot(validation["meta_step"], values, marker, markersize=4, label=label)
            drawn.append(values)
    seen = np.concatenate([values[np.isfinite(values)] for values in drawn])
    if seen.size and 0 < _LARGE_RANGE * seen.min() < seen.max():
        axes.set_yscale("log")
    axes.set_xlabel("meta-steps")
    axes.set_ylabel("training loss")
    axes.set_title(
        "mean of all tasks" if family is None else family.replace("$", r"\$"), fontsize=10
    )
    axes.spines[["top", "right"]].set_visible(False)


def _columns(path: pathlib.Path) -> Columns:
    """The columns of a log, by name."""
    with path.open(newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    table = np.array(rows, float).reshape(len(rows), len(names))
    return dict(zip(names, table.T, strict=True))
