"""Tables of results: what stands in each cell, and how Markdown and CSV have it."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from comm_lopt.hyperparameters import one_line

__all__ = [
    "Cell",
    "csv_table",
    "markdown_rows",
    "markdown_table",
    "ranked",
    "results_table",
    "target_label",
]

_FINAL_LOSS_OF = "final_loss_of_"
# What Markdown takes for more than a character; an underscore only at the edge of a word.
_MARKDOWN = re.compile(r"[\\`*|<\[\]~$&]|(?<![^\W_])_|_(?![^\W_])")


# Of an entry, in the order of their columns.
_IN_CSV = (
    "optimizer", "local_optimizer", "sends", "workers", "learned",
    "final_train_loss", "final_train_loss_std",
    "final_loss_at_weights", "final_loss_at_weights_std",
)  # fmt: skip
_COSTS = (
    "bytes_sent_per_round_per_worker", "bytes_received_per_round_per_worker", "seconds_per_round",
)  # fmt: skip


class Cell(NamedTuple):
    """What stands in a cell, and the value that a column is sorted by; None comes last."""

    text: str
    value: float | str | None = None


def results_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[Cell]]]:
    """The columns, and one row per method: the lowest final training loss first, diverged last.

    ± is the standard deviation over seeds. Hyperparameters at their defaults are left out.
    """
    methods = results["methods"]
    rounds, targets = results["problem"]["num_rounds"], list(results["targets"])
    in_bits = any("bits_per_byte" in entry["heldout"] for entry in methods.values())
    header = ["method", "train loss", "loss at the weights"]
    header += [f"rounds (of {rounds}) to {target_label(target)}" for target in targets]
    header += ["held-out loss", *["held-out bits per byte"] * in_bits, "held-out accuracy"]
    header += ["KB sent / received a round", "hyperparameters"]
    rows = []
    for label in ranked(methods):
        entry = methods[label]
        diverged = len(entry["diverged_seeds"])
        note = f" ({diverged} of {len(results['seeds'])} seeds diverged)" if diverged else ""
        heldout = entry["heldout"]
        row = [Cell(label, label), _measured(entry, "final_train_loss", note=note)]
        row.append(_measured(entry, "final_loss_at_weights"))
        row += [_rounds(entry["rounds_to"][target]) for target in targets]
        row.append(_measured(heldout, "loss"))
        if in_bits:
            row.append(_measured(heldout, "bits_per_byte", "{:.3f}"))
        row.append(_measured(heldout, "accuracy", "{:.1%}", missing="-"))
        both = [entry[f"bytes_{way}_per_round_per_worker"] for way in ("sent", "received")]
        row.append(Cell(" / ".join(f"{number / 1000:.1f}" for number in both), sum(both)))
        told = _hyperparameters(entry)
        row.append(Cell(told, told))
        rows.append(row)
    return header, rows


def markdown_table(results: Mapping[str, Any]) -> str:
    """`results_table` in Markdown."""
    header, rows = results_table(results)
    return markdown_rows([header, *([cell.text for cell in row] for row in rows)]) + "\n"


def csv_table(problems: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each problem and method with the numbers as the results have them.

    Args:
      problems: results by the name of their problem.
    """
    rows: list[dict[str, Any]] = []
    for name, results in problems.items():
        for label in ranked(results["methods"]):
            entry = results["methods"][label]
            row = {"problem": name, "method": label, **{key: entry.get(key) for key in _IN_CSV}}
            row |= {
                f"rounds_to_{target}": entry["rounds_to"][target] for target in results["targets"]
            }
            row |= {f"heldout_{key}": value for key, value in sorted(entry["heldout"].items())}
            row |= {key: entry.get(key) for key in _COSTS}
            rows.append(row | {"hyperparameters": _hyperparameters(entry)})
    columns = {key: None for row in rows for key in row}
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


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


def ranked(methods: Mapping[str, Any]) -> list[str]:
    """Labels, the lowest final training loss first, and those without one last."""
    return sorted(methods, key=lambda name: _sort_key(methods[name]))


def target_label(target: str) -> str:
    """A target as people read it."""
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


def _measured(
    entry: Mapping[str, Any],
    name: str,
    form: str = "{:.4g}",
    missing: str = "not finite",
    note: str = "",
) -> Cell:
    """A mean over seeds ± its deviation."""
    value, deviation = entry.get(name), entry.get(f"{name}_std")
    if value is None:
        return Cell(missing + note)
    told = form.format(value) + ("" if deviation is None else f" ± {_short(form, deviation)}")
    return Cell(told + note, value)


def _rounds(number: int | None) -> Cell:
    return Cell("not reached") if not number else Cell(str(number), number)


def _short(form: str, deviation: float) -> str:
    return ("{:.2g}" if form == "{:.4g}" else form).format(deviation)


def _escaped(cell: str) -> str:
    return _MARKDOWN.sub(r"\\\g<0>", cell)


def _sort_key(entry: Mapping[str, Any]) -> float:
    loss = entry["final_train_loss"]
    return math.inf if loss is None else loss
