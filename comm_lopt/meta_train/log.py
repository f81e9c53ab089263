"""What a meta-training run writes while it goes: metrics.csv, TensorBoard events, a bar."""

from __future__ import annotations

import csv
import pathlib
import sys
from collections.abc import Mapping
from typing import TextIO

from tensorboardX import SummaryWriter
from tqdm import tqdm

__all__ = ["METRICS", "MetaTrainLog"]

METRICS = ("meta_step", "meta_loss", "meta_gradient_norm", "seconds")


class MetaTrainLog:
    """Writes one row of `METRICS` per meta-step.

    Args:
      folder: the run's folder.
      first_step: meta-steps already done; later rows of an interrupted run are dropped.
      num_meta_steps: where the bar ends.
      progress: show the bar (on stderr).
    """

    def __init__(self, folder: pathlib.Path, first_step: int, num_meta_steps: int, progress: bool):
        path = folder / "metrics.csv"
        rows = _rows_until(path, first_step)
        self._file: TextIO = path.open("w", newline="", encoding="utf-8")
        self._csv = csv.DictWriter(self._file, METRICS)
        self._csv.writeheader()
        self._csv.writerows(rows)
        self._events = SummaryWriter(str(folder), purge_step=first_step or None)
        self._bar = tqdm(
            total=num_meta_steps,
            initial=first_step,
            unit="meta-step",
            desc="meta-train",
            disable=not progress,
            # A log file gets a line now and then, a terminal a bar that moves.
            mininterval=1.0 if sys.stderr.isatty() else 20.0,
        )

    def write(self, row: Mapping[str, float]) -> None:
        """Writes a row with the keys `METRICS`."""
        self._csv.writerow(row)
        step = int(row["meta_step"])
        for name in METRICS[1:]:
            self._events.add_scalar(name, row[name], step)
        self._bar.set_postfix(meta_loss=f"{row['meta_loss']:.4f}", refresh=False)
        self._bar.update()

    def flush(self) -> None:
        """Puts what was written so far on disk."""
        self._file.flush()
        self._events.flush()

    def close(self) -> None:
        """Closes the files and the bar."""
        self._bar.close()
        self._file.close()
        self._events.close()


def _rows_until(path: pathlib.Path, last_step: int) -> list[dict[str, str]]:
    if not last_step or not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if int(row["meta_step"]) <= last_step]
