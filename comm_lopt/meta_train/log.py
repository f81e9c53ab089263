"""What a meta-training run writes while it goes: CSV files, TensorBoard events, a bar."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import math
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from tqdm import tqdm

from comm_lopt.atomic import replacing
from comm_lopt.meta_train.errors import SaveError
from comm_lopt.meta_train.events import ScalarEvents
from comm_lopt.meta_train.not_finite import NotFinite

__all__ = ["METRICS", "METRICS_FILE", "SKIPPED_FILE", "MetaTrainLog"]

METRICS = ("meta_step", "meta_loss", "meta_gradient_norm", "skipped", "seconds")
METRICS_FILE = "metrics.csv"
SKIPPED_FILE = "skipped.csv"
_SKIPPED = tuple(field.name for field in dataclasses.fields(NotFinite))


class MetaTrainLog:
    """Writes one row of `METRICS` per meta-step, and one for each number that is not finite.

    Args:
      folder: the run's folder.
      first_step: meta-steps already done; later rows of an interrupted run are dropped.
      num_meta_steps: where the bar ends.
      progress: show the bar (on stderr).

    Raises:
      SaveError: a file cannot be written.
    """

    def __init__(self, folder: pathlib.Path, first_step: int, num_meta_steps: int, progress: bool):
        self._folder = folder
        try:
            self._metrics = _reopened(folder / METRICS_FILE, METRICS, first_step)
            self._skipped = _reopened(folder / SKIPPED_FILE, _SKIPPED, first_step)
            self._events = ScalarEvents(folder, first_step + 1)
        except OSError as error:
            raise self._error(error) from error
        self._bar = tqdm(
            total=num_meta_steps,
            initial=first_step,
            unit="meta-step",
            desc="meta-train",
            disable=not progress,
            # A log file gets a line now and then, a terminal a bar that moves.
            mininterval=1.0 if sys.stderr.isatty() else 20.0,
        )

    def write(self, row: Mapping[str, float], not_finite: Sequence[NotFinite] = ()) -> None:
        """Writes a row with the keys `METRICS`, and what was not finite in its meta-step.

        Raises:
          SaveError: the disk is full, or the like.
        """
        step = int(row["meta_step"])
        try:
            csv.DictWriter(self._metrics, METRICS).writerow(row)
            csv.writer(self._skipped).writerows(dataclasses.astuple(place) for place in not_finite)
            finite = {name: row[name] for name in METRICS[1:] if math.isfinite(row[name])}
            self._events.write(step, finite)
        except OSError as error:
            raise self._error(error) from error
        if not_finite:
            self._bar.write(
                f"meta-step {step} is not finite and not applied: "
                + "; ".join(_told(place) for place in not_finite),
                file=sys.stderr,
            )
        self._bar.set_postfix(meta_loss=f"{row['meta_loss']:.4f}", refresh=False)
        self._bar.update()

    def flush(self) -> None:
        """Puts what was written so far on disk.

        Raises:
          SaveError: the disk is full, or the like.
        """
        try:
            for file in (self._metrics, self._skipped):
                file.flush()
                os.fsync(file.fileno())
            self._events.flush()
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Closes the files and the bar; what cannot be written any more is dropped."""
        self._bar.close()
        for file in (self._metrics, self._skipped, self._events):
            # `flush` before a checkpoint has told already, or this is after another error.
            with contextlib.suppress(OSError):
                file.close()

    def _error(self, error: OSError) -> SaveError:
        return SaveError(
            f"the log of meta-training cannot be written in {self._folder} ({error}); the "
            "checkpoints are whole. Make room or mend the folder, then go on with --resume."
        )


def _told(place: NotFinite) -> str:
    if place.problem is None:
        return f"{place.what} of {place.task}"
    return f"{place.what} of {place.task}, problem {place.problem}, round {place.inner_step}"


def _reopened(path: pathlib.Path, columns: Sequence[str], last_step: int) -> TextIO:
    """The file with its header and its rows of up to `last_step`, to append to.

    It is replaced in one step: a run that is killed here must not lose rows.
    """
    rows = _rows_until(path, columns, last_step)
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path.open("a", newline="", encoding="utf-8")


def _rows_until(path: pathlib.Path, columns: Sequence[str], last_step: int) -> list[list[str]]:
    if not last_step or not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        lines = file.read().splitlines(keepends=True)
    # The last line of a killed run may be a part of one, such as "12" of "123,0.5".
    rows = list(csv.reader(line for line in lines if line.endswith("\n")))[1:]
    return [row for row in rows if len(row) == len(columns) and int(row[0]) <= last_step]
