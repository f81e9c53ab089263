"""What a real run writes while it goes: rounds.csv, evaluations.csv, TensorBoard, its progress."""

from __future__ import annotations

import contextlib
import csv
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from comm_lopt.long_runs.bar import ProgressDisplay
from comm_lopt.long_runs.events import ScalarEvents
from comm_lopt.long_runs.rows import reopened

__all__ = ["EVALUATIONS_FILE", "ROUNDS_FILE", "TrainLog"]

ROUNDS_FILE = "rounds.csv"
EVALUATIONS_FILE = "evaluations.csv"
_ROUND = ("round", "train_loss", "seconds", "seconds_working", "seconds_merging", "absent")


class TrainLog:
    """A row for each round, and one for each evaluation; for one process of a run.

    Args:
      folder: of the run.
      done: rounds that were done before; later rows are dropped.
      num_rounds: of the whole run.
      num_workers: K; each has a column with its loss, so that drift is visible.
      measures: what an evaluation gives, by name.
      progress: show how far it is (on stderr).

    Raises:
      OSError: a file cannot be written.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        done: int,
        num_rounds: int,
        num_workers: int,
        measures: Sequence[str],
        progress: bool,
    ):
        self._columns = [*_ROUND, *(f"loss_of_worker_{k}" for k in range(num_workers))]
        self._measures = ["round", *measures]
        self._rounds = reopened(folder / ROUNDS_FILE, self._columns, done)
        self._evaluations = reopened(folder / EVALUATIONS_FILE, self._measures, done)
        self._events = ScalarEvents(folder, done + 1)
        self._display = ProgressDisplay(done, num_rounds, progress, "train", "round")

    def write(
        self, row: Mapping[str, float], worker_losses: Iterable[float], absent: Iterable[int]
    ) -> None:
        """A row of a round: by column, the losses of workers, and who was absent."""
        each = {f"loss_of_worker_{k}": float(loss) for k, loss in enumerate(worker_losses)}
        who = " ".join(str(worker) for worker in absent)
        self._write(self._rounds, self._columns, {**row, "absent": who, **each}, "")
        self._display.update(f"train_loss={row['train_loss']:.4f}")

    def write_evaluation(self, row: Mapping[str, float]) -> None:
        """A row of an evaluation, by measure."""
        self._write(self._evaluations, self._measures, row, "evaluation/")
        if self._display.shown:
            told = ", ".join(f"{name} {row[name]:.4f}" for name in self._measures[1:])
            self._display.tell(f"after round {row['round']}: {told}")

    def flush(self) -> None:
        """Puts what was written so far on disk."""
        for file in (self._rounds, self._evaluations):
            file.flush()
            os.fsync(file.fileno())
        self._events.flush()

    def close(self) -> None:
        """Closes the files and the display."""
        self._display.close()
        for file in (self._rounds, self._evaluations, self._events):
            with contextlib.suppress(OSError):
                file.close()

    def _write(
        self, file: TextIO, columns: Sequence[str], row: Mapping[str, float | str], group: str
    ) -> None:
        csv.DictWriter(file, columns).writerow(row)
        file.flush()
        numbers = {group + name: row[name] for name in columns[1:] if name != "absent"}
        self._events.write(int(row["round"]), numbers)  # type: ignore[arg-type]
