"""Figures of results, by Matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from comm_lopt.palette import Look, looks
from comm_lopt.pictures import empty_figure, without_tex
from comm_lopt.report.tables import target_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_losses", "log_axis", "loss_figure"]

# As a ratio; on longer axes powers of ten alone have numbers.
_FEW_DECADES = 100.0


@without_tex()
def loss_figure(results: Mapping[str, Any]) -> Figure:
    """Training loss over rounds on a log scale: mean over seeds, band of one deviation."""
    figure = empty_figure(7.0, 4.5, "constrained")
    axes = figure.add_subplot()
    draw_losses(axes, results["methods"])
    for target, loss in results["targets"].items():
        if loss is not None:
            axes.axhline(loss, color="0.4", linestyle=":", linewidth=1)
            axes.annotate(
                _drawn(target_label(target)),
                (1, loss),
                (2, 3),
                textcoords="offset points",
                color="0.3",
                fontsize=8,
            )
    problem = results["problem"]
    axes.set_xlabel("communication rounds")
    axes.set_ylabel("training loss (mean over local steps)")
    axes.set_title(
        f"{_drawn(problem['task'])}: K = {problem['num_workers']}, "
        f"H = {problem['num_local_steps']}, B = {problem['local_batch_size']}, "
        f"{len(results['seeds'])} seeds",
        fontsize=10,
    )
    axes.legend(frameon=False)
    return figure


def draw_losses(
    axes: Axes, methods: Mapping[str, Any], drawn_as: Mapping[str, Look] | None = None
) -> None:
    """Draws the training loss of each method over rounds; see `loss_figure`.

    Args:
      axes: where.
      methods: entries of the results by label.
      drawn_as: the look of each label, where they are of more methods than these.
    """
    for label, look in (drawn_as or looks(methods.items())).items():
        if label not in methods:
            continue
        entry = methods[label]
        mean = np.array(entry["train_loss"], float)
        deviation = np.array(entry["train_loss_std"], float)
        rounds = np.arange(1, len(mean) + 1)
        axes.plot(
            rounds,
            mean,
            label=_drawn(label),
            linewidth=look.width,
            linestyle=look.linestyle,
            zorder=3 if entry["learned"] else 2,
            color=look.colour.light,
        )
        # A band around a mean near zero would reach below it, which a log scale cannot show.
        low = np.maximum(mean - deviation, mean / 10)
        axes.fill_between(rounds, low, mean + deviation, color=look.colour.light, alpha=0.15)
    log_axis(axes)
    axes.spines[["top", "right"]].set_visible(False)


def log_axis(axes: Axes) -> None:
    """Counts what is drawn on a log scale, and as people write losses: 0.3, and not 3 × 10⁻¹."""
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    lowest, highest = axes.get_ylim()
    if highest < _FEW_DECADES * lowest:
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 4, 6)))
        axes.yaxis.set_minor_formatter("{x:g}")
    else:
        axes.yaxis.set_minor_formatter("")


def _drawn(text: str) -> str:
    """Text as Matplotlib draws it as it is: no formula in it, and not left out of a legend."""
    return (" " + text if text.startswith("_") else text).replace("$", r"\$")
