"""The table of all lines, and the figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from lines import BASE, RATES
from selection import TASKS
from summary import KINDS, LARGEST_RATIO, MEASURES

from comm_lopt.pictures import empty_figure, without_tex
from comm_lopt.report import markdown_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure", "ordered", "table"]

_TITLES = {"train": "training loss", "heldout": "held-out loss"}


def ordered(lines: Mapping[str, Any]) -> dict[str, Any]:
    """The lines from the lowest mean ratio of training losses to the highest."""
    return dict(sorted(lines.items(), key=lambda item: item[1]["summary"]["train_mean"]))


def table(results: Mapping[str, Any]) -> str:
    """All of results.json that people look at, as Markdown."""
    lines = ordered(results["lines"])
    rates = " and ".join(f"{rate:g}" for rate in RATES)
    parts = [
        "# The recipe, one change at a time",
        "Losses at the end of a selection task as ratios to those of SlowMo, tuned on that task: "
        f"below 1 is better than it. Geometric means over the tasks and γ = {rates} where no other "
        "is said; *worst γ*: "
        "over the tasks, of the worse γ of each. A run that diverges counts as "
        f"{LARGEST_RATIO:g}. ± is the standard deviation over meta-seeds. No test task was looked "
        "at.",
        _measures(lines),
        "## Each task: training loss / held-out loss",
        _tasks(lines),
        "## Tuned SlowMo",
        _baselines(results["baselines"]),
    ]
    return "\n\n".join(parts) + "\n"


def _measures(lines: Mapping[str, Any]) -> str:
    header = ["line", "change", "meta-seeds"]
    header += [f"{_TITLES[kind]}{worst}" for kind in KINDS for worst in ("", ", worst γ")]
    rows = [[*header, "diverged runs", "meta-training, wall / CPU s"]]
    bold = set()
    for name, line in lines.items():
        found = line["summary"]
        if name == BASE:
            bold.add((len(rows), 0))
        cells = [name, line["change"], str(len(line["thetas"]))]
        cells += [_with_deviation(found[m], found[f"{m}_std"]) for m in MEASURES]
        clocks = (found["seconds"][clock] for clock in ("wall", "cpu"))
        told = " / ".join("-" if s is None else f"{s:.0f}" for s in clocks)
        rows.append([*cells, str(found["diverged_runs"]), told])
    return markdown_rows(rows, bold)


def _with_deviation(value: float, deviation: float | None) -> str:
    return f"{value:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")


def _tasks(lines: Mapping[str, Any]) -> str:
    rows = [["line", *TASKS.values()]]
    for name, line in lines.items():
        found = line["summary"]["tasks"]
        cells = (" / ".join(f"{found[task][kind]:.3f}" for kind in KINDS) for task in TASKS)
        rows.append([name, *cells])
    return markdown_rows(rows)


def _baselines(baselines: Mapping[str, Any]) -> str:
    rows = [["task", *_TITLES.values(), "hyperparameters", "on the edge", "CPU s"]]
    for task, found in baselines.items():
        losses = (f"{np.mean(found['losses'][kind][0]):.4g}" for kind in KINDS)
        best = ", ".join(f"{name}={value:g}" for name, value in found["best"].items())
        edge = ", ".join(found["on_edge"]) or "-"
        rows.append([TASKS[task], *losses, best, edge, f"{found['cpu_seconds']:.0f}"])
    return markdown_rows(rows)


@without_tex()
def figure(results: Mapping[str, Any]) -> Figure:
    """A row for each line: each meta-seed, their mean, and the mean of the worse γ."""
    lines = ordered(results["lines"])
    picture = empty_figure(9.0, 1.2 + 0.24 * len(lines), "constrained")
    panels = picture.subplots(1, 2, sharey=True)
    heights = np.arange(len(lines))[::-1]
    for axes, kind in zip(panels, KINDS, strict=True):
        mean, worst = f"{kind}_mean", f"{kind}_worst"
        for y, (name, line) in zip(heights, lines.items(), strict=True):
            seeds = [theta[mean] for theta in line["thetas"].values()]
            colour = "C3" if name == BASE else "C0"
            axes.plot([min(seeds), max(seeds)], [y, y], color=colour, linewidth=1)
            axes.plot(seeds, [y] * len(seeds), ".", color=colour, markersize=4, alpha=0.6)
            axes.plot(line["summary"][mean], y, "o", color=colour, markersize=6)
            axes.plot(line["summary"][worst], y, "o", color=colour, markersize=5, fillstyle="none")
        axes.axvline(1.0, color="0.3", linewidth=1)
        if BASE in lines:
            axes.axvline(lines[BASE]["summary"][mean], color="C3", linestyle=":", linewidth=1)
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("{x:.2g}")
        axes.xaxis.set_major_formatter("{x:.2g}")
        axes.tick_params(axis="x", which="both", labelsize=8)
        axes.set_xlabel(f"{_TITLES[kind]} / tuned SlowMo's")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
    told = [BASE if name == BASE else line["change"] for name, line in lines.items()]
    panels[0].set_yticks(heights, told, fontsize=8)
    panels[0].set_ylim(-0.7, len(lines) - 0.3)
    picture.suptitle("filled: mean over γ and meta-seeds (dots); hollow: worst γ", fontsize=9)
    return picture
