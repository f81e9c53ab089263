"""What a meta-training run writes while it goes: CSV files, TensorBoard events, its progress."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TextIO

import jax

from comm_lopt.long_runs.bar import ProgressDisplay
from comm_lopt.long_runs.errors import SaveError
from comm_lopt.long_runs.events import ScalarEvents
from comm_lopt.long_runs.rows import reopened
from comm_lopt.meta_train.not_finite import NotFinite

__all__ = [
    "METRICS",
    "METRICS_FILE",
    "SKIPPED_FILE",
    "VALIDATION",
    "VALIDATION_FILE",
    "MetaTrainLog",
    "of_family",
]

METRICS = ("meta_step", "meta_loss", "meta_gradient_norm", "skipped", "seconds")
METRICS_FILE = "metrics.csv"
SKIPPED_FILE = "skipped.csv"
VALIDATION = ("meta_step", "mean_train_loss", "final_train_loss", "seconds")
VALIDATION_FILE = "validation.csv"
_SKIPPED = tuple(field.name for field in dataclasses.fields(NotFinite))


def of_family(measure: str, family: str) -> str:
    """Name of the column and of the TensorBoard curve of one family."""
    return f"{measure}/{family}"


class MetaTrainLog:
    """Writes one row of `METRICS` per meta-step, and one for each number that is not finite.

    A row can be read as soon as it is written. That it is on disk is seen to by `flush` only.

    Args:
      folder: the run's folder.
      first_step: meta-steps already done; later rows of an interrupted run are dropped.
      num_meta_steps: of the whole run.
      progress: show how far it is (on stderr).
      families: names of the task families, if there are several: each has columns of its own.

    Raises:
      SaveError: a file cannot be written.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        first_step: int,
        num_meta_steps: int,
        progress: bool,
        families: Sequence[str] = (),
    ):
        self._folder = folder
        self._families = families
        self._columns = [*METRICS, *(of_family("meta_loss", name) for name in families)]
        validated = [of_family(m, name) for name in families for m in VALIDATION[1:3]]
        self._validation_columns = [*VALIDATION, *validated]
        try:
            self._metrics = reopened(folder / METRICS_FILE, self._columns, first_step)
            self._skipped = reopened(folder / SKIPPED_FILE, _SKIPPED, first_step)
            self._validation = reopened(
                folder / VALIDATION_FILE, self._validation_columns, first_step
            )
            self._events = ScalarEvents(folder, first_step + 1)
        except OSError as error:
            raise self._error(error) from error
        self._display = ProgressDisplay(first_step, num_meta_steps, progress)

    def write(self, row: Mapping[str, float], not_finite: Sequence[NotFinite] = ()) -> None:
        """Writes a row of a meta-step, and what was not finite in it.

        Args:
          row: with the keys `METRICS`, and `of_family("meta_loss", name)` for several families.
          not_finite: what was not finite.

        Raises:
          SaveError: the disk is full, or the like.
        """
        try:
            csv.writer(self._skipped).writerows(dataclasses.astuple(place) for place in not_finite)
            self._skipped.flush()
            self._write(self._metrics, self._columns, row)
        except OSError as error:
            raise self._error(error) from error
        if not_finite:
            self._display.tell(
                f"meta-step {row['meta_step']} is not finite and not applied: "
                + "; ".join(_told(place) for place in not_finite)
            )
        losses = {"meta_loss": row["meta_loss"]}
        losses |= {name: row[of_family("meta_loss", name)] for name in self._families}
        self._display.update(", ".join(f"{name}={loss:.4f}" for name, loss in losses.items()))

    def write_validation(self, row: Mapping[str, float]) -> None:
        """Writes a row of a validation.

        Args:
          row: with the keys `VALIDATION`, and for several families both losses `of_family`.

        Raises:
          SaveError: the disk is full, or the like.
        """
        try:
            self._write(self._validation, self._validation_columns, row, "validation/")
        except OSError as error:
            raise self._error(error) from error
        if self._display.shown:
            self._display.tell(
                f"validation after meta-step {row['meta_step']}: mean training loss "
                f"{row['mean_train_loss']:.4f}, at the end {row['final_train_loss']:.4f}"
            )

    def flush(self) -> None:
        """Puts what was written so far on disk.

        Raises:
          SaveError: the disk is full, or the like.
        """
        try:
            for file in (self._metrics, self._skipped, self._validation):
                file.flush()
                os.fsync(file.fileno())
            self._events.flush()
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Closes the files and the display; what cannot be written any more is dropped."""
        self._display.close()
        for file in (self._metrics, self._skipped, self._validation, self._events):
            # `flush` before a checkpoint has told already, or this is after another error.
            with contextlib.suppress(OSError):
                file.close()

    def _write(
        self, file: TextIO, columns: Sequence[str], row: Mapping[str, float], group: str = ""
    ) -> None:
        csv.DictWriter(file, columns).writerow(row)
        file.flush()
        finite = {group + name: row[name] for name in columns[1:] if math.isfinite(row[name])}
        self._events.write(int(row["meta_step"]), finite)

    def _error(self, error: OSError) -> SaveError:
        return SaveError(
            f"the log of meta-training cannot be written in {self._folder} ({error}); the "
            "checkpoints are whole. Make room or mend the folder, then go on with --resume."
        )


def _told(place: NotFinite) -> str:
    told = f"{place.what} of {place.task}"
    if jax.process_count() > 1:
        told += f" in process {place.process}"
    if place.problem is None:
        return told
    return f"{told}, problem {place.problem}, round {place.inner_step}"
