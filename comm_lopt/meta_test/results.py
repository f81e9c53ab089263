"""The one format of results: results.json and curves.csv, written and read."""

from __future__ import annotations

import contextlib
import csv
import datetime
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from comm_lopt.atomic import locked, replacing
from comm_lopt.hyperparameters import one_line, plain
from comm_lopt.meta_test.check_results import RESULTS_VERSION, check_results, read_json
from comm_lopt.meta_test.problem import Problem
from comm_lopt.meta_test.runs import Curves, running_mean
from comm_lopt.methods import Method, checked_name
from comm_lopt.versions import versions

__all__ = [
    "CURVE_COLUMNS",
    "RESULTS_FILE",
    "alone_in",
    "claim_out_dir",
    "make_results",
    "read_results",
    "results_file",
    "rounds_to",
    "write_results",
]

CURVE_COLUMNS = (
    "method", "seed", "round", "train_loss", "loss_at_weights", "heldout_loss", "heldout_accuracy",
)  # fmt: skip
RESULTS_FILE = "results.json"
# As `json` writes it: no text holds a line feed.
_LIST_OF_NUMBERS = re.compile(r"\[\n[^][{}\"]+\]")


@contextlib.contextmanager
def alone_in(out_dir: str | os.PathLike[str]) -> Iterator[None]:
    """Makes the folder for results, and keeps other processes out for as long as the block lasts.

    Raises:
      BusyError: another process is at it.
    """
    folder = pathlib.Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"another process is at {folder}; wait until it has ended, or pass another --out_dir."
    with locked(folder / ".lock", busy):
        yield


def claim_out_dir(out_dir: str | os.PathLike[str], marker: str = RESULTS_FILE) -> pathlib.Path:
    """Makes the folder for results, before any long work.

    Args:
      out_dir: the folder.
      marker: the file that would mean that results are there already.

    Raises:
      FileExistsError: it holds another run's results.
    """
    folder = pathlib.Path(out_dir)
    if (folder / marker).exists():
        raise FileExistsError(
            f"{folder} holds another run's {marker}; pass another --out_dir, or remove it."
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def rounds_to(train_loss: np.ndarray, target: float) -> int | None:
    """Rounds until the running mean of the loss first is at most `target`, or None.

    The mean is over 5 % of T, as the final loss is, so that a run reaches its own by round T.

    Args:
      train_loss: [T].
      target: a loss.
    """
    means = running_mean(train_loss)
    reached = np.flatnonzero(means <= target)
    return int(reached[0]) + len(train_loss) - len(means) + 1 if len(reached) else None


def make_results(
    problem: Problem,
    seeds: Sequence[int],
    runs: Mapping[str, tuple[Method, Curves]],
    targets: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Puts runs into the results format.

    Losses that are not finite become null, and the seeds in which one occurs are listed under
    "diverged_seeds". The final training loss of each LocalSGD among the runs is a target.

    Args:
      problem: what was trained.
      seeds: the seeds of all runs.
      runs: by label, method and curves of a grid of one point.
      targets: further losses, by name, for "rounds_to".

    Returns:
      A JSON-able dict; see docs/formats.md.

    Raises:
      ValueError: a label or the name of a target that no table can show.
    """
    seeds = [int(seed) for seed in seeds]
    targets = {checked_name(name): float(plain(loss)) for name, loss in (targets or {}).items()}
    for label, (method, curves) in runs.items():
        checked_name(label)
        if method.optimizer == "LocalSGD":
            targets[f"final_loss_of_{label}"] = float(running_mean(_mean_curve(curves))[-1])
    return {
        "format_version": RESULTS_VERSION,
        "problem": problem.describe(),
        "seeds": seeds,
        "evaluated_rounds": next(iter(runs.values()))[1].evaluated_rounds.tolist() if runs else [],
        "methods": {
            label: {**method.describe(), **_entry(problem, curves, seeds, targets)}
            for label, (method, curves) in runs.items()
        },
        "targets": {name: _number(loss) for name, loss in targets.items()},
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _entry(
    problem: Problem, curves: Curves, seeds: Sequence[int], targets: Mapping[str, float]
) -> dict[str, Any]:
    """What came of a method."""
    mean_curve = _mean_curve(curves)
    heldout = {**_numbers_told(curves), "loss": curves.heldout_loss}
    final = {name: _over_seeds(name, values[0, :, -1]) for name, values in heldout.items()}
    return {
        **_over_seeds("train_loss", curves.train_loss[0]),
        # The mean of the mean curve, which `rounds_to` looks at.
        **_over_seeds("final_train_loss", curves.final_train_loss[0]),
        "final_train_loss": _number(running_mean(mean_curve)[-1]),
        **_over_seeds("loss_at_weights", curves.loss_at_weights[0]),
        **_over_seeds("final_loss_at_weights", curves.loss_at_weights[0, :, -1]),
        "diverged_seeds": [
            seed for seed, gone in zip(seeds, curves.diverged[0], strict=True) if gone
        ],
        "heldout": {
            "accuracy": None,
            "accuracy_std": None,
            **{name: value for found in final.values() for name, value in found.items()},
            "split": problem.heldout_split,
        },
        "rounds_to": {target: rounds_to(mean_curve, loss) for target, loss in targets.items()},
        "bytes_sent_per_round_per_worker": curves.bytes_per_round.sent,
        "bytes_received_per_round_per_worker": curves.bytes_per_round.received,
        "seconds_per_round": curves.seconds_per_round,
    }


def write_results(
    folder: pathlib.Path, results: Mapping[str, Any], runs: Mapping[str, tuple[Method, Curves]]
) -> None:
    """Writes results.json and then curves.csv into `folder`."""
    with replacing(folder / RESULTS_FILE) as path:
        text = json.dumps(results, indent=2, allow_nan=False)
        path.write_text(_LIST_OF_NUMBERS.sub(_on_one_line, text), encoding="utf-8")
    with (folder / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(CURVE_COLUMNS)
        for label, (_, curves) in runs.items():
            writer.writerows(_curve_rows(label, results["seeds"], curves))


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads results from a file, or from the folder of a meta-test.

    Raises:
      FileNotFoundError: it is not there.
      ResultsError: it is not in the results format; a report of what is can be made.
    """
    return read_json(results_file(path), check_results)


def results_file(path: str | os.PathLike[str]) -> pathlib.Path:
    """The file itself, or results.json in the folder.

    Raises:
      FileNotFoundError: it is not there.
    """
    path = pathlib.Path(path)
    path = path / RESULTS_FILE if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"no results at {path}; pass the --out_dir of a meta-test.")
    return path


def _on_one_line(found: re.Match[str]) -> str:
    return " ".join(found[0].split())


def _numbers_told(curves: Curves) -> dict[str, np.ndarray]:
    """What a task reports beside its loss, as far as it is numbers: by name, [G, S, E]."""
    told = curves.heldout_metrics
    return {
        one_line(str(name)): values
        for name, values in (told.items() if isinstance(told, Mapping) else ())
        if np.shape(values) == curves.heldout_loss.shape
    }


def _curve_rows(label: str, seeds: Sequence[int], curves: Curves) -> list[list[Any]]:
    evaluated = {int(number): e for e, number in enumerate(curves.evaluated_rounds)}
    columns = [curves.loss_at_weights, curves.heldout_loss, _numbers_told(curves).get("accuracy")]
    rows = []
    for s, seed in enumerate(seeds):
        for t, loss in enumerate(curves.train_loss[0, s], start=1):
            at_round: list[Any] = [""] * len(columns)
            if t in evaluated:
                at_round = ["" if c is None else float(c[0, s, evaluated[t]]) for c in columns]
            rows.append([label, seed, t, float(loss), *at_round])
    return rows


def _mean_curve(curves: Curves) -> np.ndarray:
    """[T], mean over seeds of the only grid point."""
    return curves.train_loss[0].astype(np.float64).mean(0)


def _over_seeds(name: str, values: np.ndarray) -> dict[str, Any]:
    """Mean and standard deviation over seeds of values [S] or [S, ...], as JSON values."""
    values = values.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        return {name: _numbers(values.mean(0)), f"{name}_std": _numbers(values.std(0))}


def _numbers(values: Any) -> Any:
    return [_number(x) for x in values] if np.ndim(values) else _number(values)


def _number(value: Any) -> float | None:
    # With x64 there can be losses beyond 1e300, whose deviation is not finite.
    return float(value) if math.isfinite(value) and abs(value) < 1e300 else None
