"""Results of several problems: one file that holds them, or several that are read together."""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from comm_lopt.meta_test.check_results import check_collection, check_results, read_json
from comm_lopt.meta_test.results import RESULTS_FILE, results_file

__all__ = ["TitledResults", "read_collection"]


@dataclasses.dataclass(frozen=True)
class TitledResults:
    """Results with what they are called.

    Attributes:
      name: no other of a collection has it.
      title: for people.
      results: in the results format.
    """

    name: str
    title: str
    results: Mapping[str, Any]


def read_collection(paths: Sequence[str | os.PathLike[str]]) -> list[TitledResults]:
    """Reads results, and files that hold those of several problems.

    Args:
      paths: files, or folders with a results.json.

    Raises:
      FileNotFoundError: one is not there.
      ResultsError: one is in neither format; see docs/formats.md.
    """
    found: list[TitledResults] = []
    for path in map(results_file, paths):
        values = read_json(path, _check)
        for name, problem in _problems(path, values).items():
            taken = [one.name for one in found]
            free = next(n for n in _names(name) if n not in taken)
            found.append(TitledResults(free, problem["title"], problem["results"]))
    return found


def _check(values: Any) -> None:
    (check_collection if isinstance(values, dict) and "problems" in values else check_results)(
        values
    )


def _problems(path: pathlib.Path, values: Mapping[str, Any]) -> Mapping[str, Any]:
    if "problems" in values:
        return values["problems"]
    told = values["problem"]
    numbers = {
        "K": told["num_workers"], "H": told["num_local_steps"], "B": told["local_batch_size"],
        "T": told["num_rounds"],
    }  # fmt: skip
    title = ", ".join([told["task"], *(f"{k} {n}" for k, n in numbers.items() if n is not None)])
    name = path.resolve().parent.name if path.name == RESULTS_FILE else path.stem
    return {name: {"title": title, "results": values}}


def _names(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name} {number}" for number in itertools.count(2))
