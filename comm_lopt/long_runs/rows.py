"""CSV files of a run that goes on after it was killed."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Sequence
from typing import TextIO

from comm_lopt.atomic import replacing

__all__ = ["reopened"]


def reopened(path: pathlib.Path, columns: Sequence[str], last_step: int) -> TextIO:
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
    header, *rows = csv.reader(line for line in lines if line.endswith("\n"))
    kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= last_step]
    # A file of an earlier version may have fewer columns.
    named = [dict(zip(header, row, strict=True)) for row in kept]
    return [[row.get(column, "") for column in columns] for row in named]
