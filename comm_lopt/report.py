"""Results to tables and figures."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from comm_lopt.hyperparameters import one_line
from comm_lopt.pictures import empty_figure, without_tex

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_losses", "loss_figure", "markdown_rows", "markdown_table", "write_report"]

_FINAL_LOSS_OF = "final_loss_of_"
# What Markdown takes for more than a character; an underscore only at the edge of a word.
_MARKDOWN = re.compile(r"[\\`*|<\[\]~$&]|(?<![^\W_])_|_(?![^\W_])")


def markdown_table(results: Mapping[str, Any]) -> str:
    """One row per method, the lowest final training loss first, diverged runs last.

    ± is the standard deviation over seeds. Hyperparameters at their defaults are left out.
    """
    methods = results["methods"]
    rounds, targets = results["problem"]["num_rounds"], list(results["targets"])
    in_bits = any("bits_per_byte" in entry["heldout"] for entry in methods.values())
    header = ["method", "train loss", "loss at the weights"]
    header += [f"rounds (of {rounds}) to {_target_label(target)}" for target in targets]
    header += ["held-out loss", *["held-out bits per byte"] * in_bits, "held-out accuracy"]
    header += ["KB sent / received a round", "hyperparameters"]
    rows = [header]
    for label in sorted(methods, key=lambda name: _sort_key(methods[name])):
        entry = methods[label]
        diverged = len(entry["diverged_seeds"])
        note = f" ({diverged} of {len(results['seeds'])} seeds diverged)" if diverged else ""
        heldout = entry["heldout"]
        row = [label, _figure(entry, "final_train_loss") + note]
        row.append(_figure(entry, "final_loss_at_weights"))
        row += [str(entry["rounds_to"][target] or "not reached") for target in targets]
        row.append(_figure(heldout, "loss"))
        if in_bits:
            row.append(_figure(heldout, "bits_per_byte", "{:.3f}"))
        row.append(_figure(heldout, "accuracy", "{:.1%}", missing="-"))
        both = [entry[f"bytes_{way}_per_round_per_worker"] for way in ("sent", "received")]
        row.append(" / ".join(f"{number / 1000:.1f}" for number in both))
        row.append(_hyperparameters(entry))
        rows.append(row)
    return markdown_rows(rows) + "\n"


def markdown_rows(rows: Sequence[Sequence[str]], bold: Collection[tuple[int, int]] = ()) -> str:
    """A table in Markdown without a line feed at its end; the first row is the header.

    Args:
      rows: cells as they are to be read.
      bold: row and column, from 0 on, of the cells in bold.
    """
    marked = [
        [f"**{_escaped(c)}**" if (y, x) in bold else _escaped(c) for x, c in enumerate(row)]
        for y, row in enumerate(rows)
    ]
    marked.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in marked)


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
                _drawn(_target_label(target)),
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
    axes: Axes, methods: Mapping[str, Any], colours: Mapping[str, str] | None = None
) -> None:
    """Draws the training loss of each method over rounds; see `loss_figure`.

    Args:
      axes: where.
      methods: entries of the results by label.
      colours: of the labels; Matplotlib's cycle if None.
    """
    for label, entry in methods.items():
        mean = np.array(entry["train_loss"], float)
        deviation = np.array(entry["train_loss_std"], float)
        rounds = np.arange(1, len(mean) + 1)
        width, order = (2.2, 3) if entry["learned"] else (1.3, 2)
        (line,) = axes.plot(
            rounds,
            mean,
            label=_drawn(label),
            linewidth=width,
            zorder=order,
            color=colours and colours[label],
        )
        # A band around a mean near zero would reach below it, which a log scale cannot show.
        low = np.maximum(mean - deviation, mean / 10)
        axes.fill_between(rounds, low, mean + deviation, color=line.get_color(), alpha=0.15)
    axes.set_yscale("log")
    axes.spines[["top", "right"]].set_visible(False)


def write_report(folder: pathlib.Path, results: Mapping[str, Any]) -> tuple[str, pathlib.Path]:
    """Writes table.md and loss.png into `folder`; returns the table and the figure's path."""
    table = markdown_table(results)
    (folder / "table.md").write_text(table, encoding="utf-8")
    path = folder / "loss.png"
    # The numbers at the axes are made while it is drawn.
    with without_tex():
        loss_figure(results).savefig(path, dpi=150)
    return table, path


def _target_label(target: str) -> str:
    label = target.removeprefix(_FINAL_LOSS_OF)
    return target if label == target else f"{label}'s final loss"


def _hyperparameters(entry: Mapping[str, Any]) -> str:
    chosen = {
        name: value
        for name, value in entry["hparams"].items()
        if entry["sources"].get(name) != "default"
    }
    shown = [
        f"{n}={v:g}" if type(v) in (int, float) else one_line(f"{n}={v}") for n, v in chosen.items()
    ]
    return ", ".join(shown) or "none"


def _figure(
    entry: Mapping[str, Any], name: str, form: str = "{:.4g}", missing: str = "not finite"
) -> str:
    """A mean over seeds ± its deviation."""
    value, deviation = entry.get(name), entry.get(f"{name}_std")
    if value is None:
        return missing
    return form.format(value) + ("" if deviation is None else f" ± {_short(form, deviation)}")


def _short(form: str, deviation: float) -> str:
    return ("{:.2g}" if form == "{:.4g}" else form).format(deviation)


def _escaped(cell: str) -> str:
    return _MARKDOWN.sub(r"\\\g<0>", cell)


def _drawn(text: str) -> str:
    """Text as Matplotlib draws it as it is: no formula in it, and not left out of a legend."""
    return (" " + text if text.startswith("_") else text).replace("$", r"\$")


def _sort_key(entry: Mapping[str, Any]) -> float:
    loss = entry["final_train_loss"]
    return float("inf") if loss is None else loss
