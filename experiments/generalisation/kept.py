"""Work that is done once: what came of it is a JSON file, used again while what made it is same."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from records import write_record

from comm_lopt.atomic import locked
from comm_lopt.meta_test import ResultsError, read_json
from comm_lopt.meta_test.problem import differences

__all__ = ["kept", "made_once"]

Record = dict[str, Any]


def made_once(
    path: pathlib.Path, description: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]
) -> Record:
    """The record at `path` if it is of `description`; otherwise what `make` gives, written there.

    Args:
      path: the record's file.
      description: what decides it, as JSON values; "problems", if there are any, are of
        `Problem.describe()`, by name.
      make: does the work; the record is what it returns, with "description".

    Raises:
      BusyError: another process is at it.
      ResultsError: the file cannot be used.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.stem}.lock"), f"another process is at {path}."):
        found = kept(path, description)
        if found is None:
            found = {"description": description, **make()}
            write_record(path, found)
    return found


def kept(path: pathlib.Path, description: Mapping[str, Any]) -> Record | None:
    """The record at `path`, or None if it is not there or is of something else."""
    if not path.exists():
        return None
    record = read_json(path, _check)
    there, here = record["description"], json.loads(json.dumps(description))
    problems = there.pop("problems", {}), here.pop("problems", {})
    same = there == here and problems[0].keys() == problems[1].keys()
    if not same or any(differences(problems[0][name], told) for name, told in problems[1].items()):
        return None
    return {**record, "description": description}


def _check(record: Any) -> None:
    if not isinstance(record, dict) or not isinstance(record.get("description"), dict):
        raise ResultsError("it does not say what it is of")
