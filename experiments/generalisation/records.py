"""What came of a method on a problem: one JSON file, used again while what made it is the same."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from comm_lopt.atomic import replacing
from comm_lopt.meta_test import ResultsError, read_json, rounds_to
from comm_lopt.meta_test.check_results import check_results
from comm_lopt.meta_test.problem import differences
from comm_lopt.pictures import without_tex

__all__ = [
    "TARGETS",
    "description",
    "merged",
    "read_record",
    "same_problem",
    "write_record",
    "write_results",
]

TARGETS = ("LocalSGD", "SlowMo", "DiLoCo")
"""Baselines, the rounds to whose final loss are counted."""


def description(
    problem: Mapping[str, Any], method: Mapping[str, Any], plan: Any, seeds: Sequence[int]
) -> dict[str, Any]:
    """What decides a record, as JSON gives it back.

    Args:
      problem: `Problem.describe()`.
      method: `Method.describe()`, before it is tuned. Where its theta lies does not count.
      plan: how it is tuned, as JSON values; None for a learned one.
      seeds: of the comparison.
    """
    theta = {name: value for name, value in (method["theta"] or {}).items() if name != "path"}
    told = {
        "problem": problem,
        "method": {**method, "theta": theta},
        "plan": plan,
        "seeds": list(seeds),
    }
    return json.loads(json.dumps(told))


def read_record(path: pathlib.Path, expected: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record, or None if it is not there, or is of something else than `expected`.

    Raises:
      ResultsError: the file cannot be used.
    """
    if not path.exists():
        return None
    record = read_json(path, _check)
    found = record["description"]
    same = all(found[name] == expected[name] for name in ("method", "plan"))
    return record if same and same_problem(record, {"description": expected}) else None


def same_problem(record: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records are of the same problem and the same seeds."""
    one, two = record["description"], other["description"]
    return one["seeds"] == two["seeds"] and not differences(one["problem"], two["problem"])


def write_record(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Writes JSON values; a record of a method has what `read_record` checks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, allow_nan=False), encoding="utf-8")


def write_results(
    out_dir: pathlib.Path,
    results: Mapping[str, Any],
    table: str,
    figure: Callable[[], Any],
    picture: str,
) -> None:
    """Writes results.json, table.md and a figure of all records, and says where they are.

    Args:
      out_dir: the folder.
      results: as JSON values.
      table: in Markdown.
      figure: draws it.
      picture: its file's name.
    """
    write_record(out_dir / "results.json", results)
    with replacing(out_dir / "table.md") as path:
        path.write_text(table, encoding="utf-8")
    with without_tex():
        figure().savefig(out_dir / picture, dpi=150)
    print(f"{out_dir / 'table.md'} and {out_dir / picture}")


def merged(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The results of a problem, in the results format, of the records of its methods by label."""
    all_results = [record["results"] for record in records.values()]
    methods = {
        label: entry for results in all_results for label, entry in results["methods"].items()
    }
    losses = {name: methods[name]["final_train_loss"] for name in TARGETS if name in methods}
    targets = {f"final_loss_of_{name}": loss for name, loss in losses.items() if loss is not None}
    for entry in methods.values():
        curve = np.array(entry["train_loss"], float)
        entry["rounds_to"] = {name: rounds_to(curve, loss) for name, loss in targets.items()}
    return {**all_results[0], "methods": methods, "targets": targets}


def _check(record: Any) -> None:
    missing = {"description", "results", "tuning", "cpu_seconds"} - {*record}
    if missing:
        raise ResultsError(f"it has no {', '.join(sorted(missing))}")
    check_results(record["results"])
