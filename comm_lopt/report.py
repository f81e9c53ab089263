"""Results to tables and figures."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["loss_figure", "markdown_table", "write_report"]

_TARGET = "final_loss_of_LocalSGD"


def markdown_table(results: Mapping[str, Any]) -> str:
    """One row per optimizer, the lowest final training loss first, diverged runs last."""
    rounds = results["num_rounds"]
    header = ["optimizer", "final train loss"]
    targets = list(results["targets"])
    header += [f"rounds (of {rounds}) to {_target_label(target)}" for target in targets]
    optimizers = results["optimizers"]
    in_bits = any("bits_per_byte" in entry["heldout"] for entry in optimizers.values())
    header += ["held-out loss", *["held-out bits per byte"] * in_bits, "held-out accuracy"]
    header += ["KB per round", "hyperparameters"]
    rows = [header, ["---"] * len(header)]
    for name in sorted(optimizers, key=lambda n: _sort_key(optimizers[n])):
        entry = optimizers[name]
        diverged = len(entry["diverged_seeds"])
        loss = _figure(entry["final_train_loss"], "{:.4g}")
        note = f" ({diverged} of {len(results['seeds'])} seeds diverged)" if diverged else ""
        row = [name, loss + note]
        row += [str(entry["rounds_to"][target] or "not reached") for target in targets]
        row.append(_figure(entry["heldout"]["loss"], "{:.4g}"))
        if in_bits:
            row.append(_figure(entry["heldout"].get("bits_per_byte"), "{:.3f}"))
        row += [
            _figure(entry["heldout"]["accuracy"], "{:.1%}", missing="-"),
            f"{entry['bytes_per_round_per_worker'] / 1000:.1f}",
            ", ".join(f"{key}={value:g}" for key, value in entry["hparams"].items()) or "none",
        ]
        rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def loss_figure(results: Mapping[str, Any]) -> Figure:
    """Training loss over rounds on a log scale: mean over seeds, band of one deviation."""
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, entry in results["optimizers"].items():
        mean = np.array(entry["train_loss"], float)
        deviation = np.array(entry["train_loss_std"], float)
        rounds = np.arange(1, len(mean) + 1)
        learned = name.startswith(("LOpt", "LAgg"))
        (line,) = axes.plot(
            rounds, mean, label=name, linewidth=2.2 if learned else 1.3, zorder=3 if learned else 2
        )
        # A band around a mean near zero would reach below it, which a log scale cannot show.
        low = np.maximum(mean - deviation, mean / 10)
        axes.fill_between(rounds, low, mean + deviation, color=line.get_color(), alpha=0.15)
    for target, loss in results["targets"].items():
        if loss is not None:
            axes.axhline(loss, color="0.4", linestyle=":", linewidth=1)
            axes.annotate(
                _target_label(target),
                (1, loss),
                (2, 3),
                textcoords="offset points",
                color="0.3",
                fontsize=8,
            )
    axes.set_yscale("log")
    axes.set_xlabel("communication rounds")
    axes.set_ylabel("training loss")
    axes.set_title(
        f"{results['task']}: K = {results['num_workers']}, H = {results['num_local_steps']}, "
        f"B = {results['local_batch_size']}, {len(results['seeds'])} seeds",
        fontsize=10,
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def write_report(folder: pathlib.Path, results: Mapping[str, Any]) -> tuple[str, pathlib.Path]:
    """Writes table.md and loss.png into `folder`; returns the table and the figure's path."""
    table = markdown_table(results)
    (folder / "table.md").write_text(table, encoding="utf-8")
    path = folder / "loss.png"
    loss_figure(results).savefig(path, dpi=150)
    return table, path


def _target_label(target: str) -> str:
    return "LocalSGD's final loss" if target == _TARGET else target


def _figure(value: float | None, form: str, missing: str = "not finite") -> str:
    return missing if value is None else form.format(value)


def _sort_key(entry: Mapping[str, Any]) -> float:
    loss = entry["final_train_loss"]
    return float("inf") if loss is None else loss
