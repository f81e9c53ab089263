"""The one format of results: results.json and curves.csv, written and read."""

from __future__ import annotations

import csv
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from comm_lopt.atomic import replacing
from comm_lopt.meta_test.check_results import check_results, read_json
from comm_lopt.meta_test.problem import Candidate, Problem
from comm_lopt.meta_test.runs import Curves
from comm_lopt.upstream import Datasets
from comm_lopt.versions import versions

__all__ = [
    "CURVE_COLUMNS",
    "claim_out_dir",
    "make_results",
    "read_results",
    "rounds_to",
    "write_results",
]

CURVE_COLUMNS = ("optimizer", "seed", "round", "train_loss", "heldout_loss", "heldout_accuracy")
_RUNNING_MEAN = 5
_RESULTS = "results.json"


def claim_out_dir(out_dir: str | os.PathLike[str], marker: str = _RESULTS) -> pathlib.Path:
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
    """Rounds until the mean of the last 5 rounds first is at most `target`, or None.

    Args:
      train_loss: [T].
      target: a loss.
    """
    window = min(_RUNNING_MEAN, len(train_loss))
    running = np.convolve(train_loss, np.full(window, 1.0 / window), mode="valid")
    reached = np.flatnonzero(running <= target)
    return int(reached[0]) + window if len(reached) else None


def make_results(
    problem: Problem,
    seeds: Sequence[int],
    runs: Mapping[str, tuple[Candidate, Curves]],
    targets: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Puts runs into the results format.

    Losses that are not finite become null, and the seeds in which one occurs are listed under
    "diverged_seeds". If LocalSGD is among the runs, its final training loss is a target.

    Args:
      problem: what was trained.
      seeds: the seeds of all runs.
      runs: by name, candidate and curves of a grid of one point.
      targets: further losses, by name, for "rounds_to".

    Returns:
      A JSON-able dict; see docs/formats.md.
    """
    targets = dict(targets or {})
    if "LocalSGD" in runs:
        targets["final_loss_of_LocalSGD"] = float(runs["LocalSGD"][1].final_train_loss[0].mean())
    optimizers = {}
    for name, (candidate, curves) in runs.items():
        train_loss = curves.train_loss[0]
        metrics = {
            name: _number(values[0, :, -1].mean())
            for name, values in curves.heldout_metrics.items()
        }
        optimizers[name] = {
            "hparams": dict(candidate.hparams),
            "train_loss": [_number(x) for x in train_loss.mean(0)],
            "train_loss_std": [_number(x) for x in train_loss.std(0)],
            "final_train_loss": _number(curves.final_train_loss[0].mean()),
            "diverged_seeds": [
                seed for seed, gone in zip(seeds, curves.diverged[0], strict=True) if gone
            ],
            "heldout": {
                "split": problem.heldout_split,
                "loss": _number(curves.heldout_loss[0, :, -1].mean()),
                "accuracy": None,
                **metrics,
            },
            "rounds_to": {
                target: rounds_to(train_loss.mean(0), loss) for target, loss in targets.items()
            },
            "bytes_per_round_per_worker": curves.bytes_per_round_per_worker,
            "seconds_per_round": curves.seconds_per_round,
        }
    return {
        "task": problem.task_family.name,
        "num_workers": problem.num_workers,
        "num_local_steps": problem.num_local_steps,
        "local_batch_size": _batch_size(problem.task_family.datasets),
        "worker_parts": problem.part_sizes(),
        "num_rounds": problem.num_rounds,
        "seeds": list(seeds),
        "optimizers": optimizers,
        "targets": {name: _number(loss) for name, loss in targets.items()},
        "versions": versions(),
    }


def write_results(
    folder: pathlib.Path, results: Mapping[str, Any], runs: Mapping[str, tuple[Candidate, Curves]]
) -> None:
    """Writes curves.csv and then results.json into `folder`."""
    with (folder / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(CURVE_COLUMNS)
        for name, (_, curves) in runs.items():
            writer.writerows(_curve_rows(name, results["seeds"], curves))
    text = json.dumps(results, indent=2, allow_nan=False)
    with replacing(folder / _RESULTS) as file:
        file.write_text(text, encoding="utf-8")


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads results.json, given the file or its folder.

    Raises:
      FileNotFoundError: it is not there.
      ResultsError: it is not in the results format; a report of what is can be made.
    """
    path = pathlib.Path(path)
    path = path / _RESULTS if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"no results at {path}; pass the --out_dir of a meta-test.")
    return read_json(path, check_results)


def _curve_rows(name: str, seeds: Sequence[int], curves: Curves) -> list[list[Any]]:
    evaluated = {int(number): e for e, number in enumerate(curves.heldout_rounds)}
    rows = []
    for s, seed in enumerate(seeds):
        for t, loss in enumerate(curves.train_loss[0, s], start=1):
            heldout: list[Any] = ["", ""]
            if t in evaluated:
                accuracy = curves.heldout_metrics.get("accuracy")
                heldout = [
                    float(curves.heldout_loss[0, s, evaluated[t]]),
                    "" if accuracy is None else float(accuracy[0, s, evaluated[t]]),
                ]
            rows.append([name, seed, t, float(loss), *heldout])
    return rows


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _batch_size(datasets: Datasets) -> int | None:
    """B, where the data sets say it."""
    batch_size = getattr(datasets.train, "batch_size", None)
    if batch_size is not None:
        return int(batch_size)
    leaves = jax.tree.leaves(datasets.abstract_batch)
    return int(leaves[0].shape[0]) if leaves and leaves[0].shape else None
