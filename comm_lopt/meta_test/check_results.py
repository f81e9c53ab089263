"""Results read from JSON, and whether they can be used: every value that is looked at later."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

__all__ = [
    "COLLECTION_VERSION",
    "LARGEST_NUM_ROUNDS",
    "RESULTS_VERSION",
    "SWEEP_VERSION",
    "ResultsError",
    "check_collection",
    "check_results",
    "check_sweep",
    "read_json",
]

RESULTS_VERSION = SWEEP_VERSION = 2
COLLECTION_VERSION = 1

LARGEST_NUM_ROUNDS = 10**6

_LARGEST = 1 << 63
# Results of a method over the most rounds have 40 MB.
_MAX_BYTES = 1 << 26
_LOSSES = ("train_loss", "loss_at_weights")


class ResultsError(ValueError):
    """A file of results that cannot be read or reported."""


def read_json(path: pathlib.Path, check: Callable[[Any], None]) -> Any:
    """Reads a file of JSON values and checks them.

    Args:
      path: the file.
      check: raises ResultsError if the values are not as they should be.

    Raises:
      ResultsError: whatever is wrong with what is in the file.
      OSError: it cannot be read.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ResultsError(f"it has more than {_MAX_BYTES} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
        check(values)
    # RecursionError: of JSON that is nested too deeply.
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path} cannot be used: {error}") from error
    return values


def check_sweep(sweep: Any) -> None:
    """Raises ResultsError unless `sweep` says what was tuned, on what, and what was best."""
    _version(sweep, SWEEP_VERSION)
    _fields(
        "sweep",
        sweep,
        problem=_problem,
        label=_text,
        method=_method,
        seeds=_list_of(_integer),
        best=_map_of(_number),
    )


def check_results(results: Any) -> None:
    """Raises ResultsError unless `results` is as `make_results` makes it.

    Values that no report looks at may be anything.

    Args:
      results: what JSON gave.
    """
    _version(results, RESULTS_VERSION)
    _fields(
        "results",
        results,
        problem=_problem,
        seeds=_list_of(_integer),
        evaluated_rounds=_list_of(_count),
        methods=_map_of(_entry),
        targets=_map_of(_optional(_number)),
    )
    for label, entry in results["methods"].items():
        where = f"results.methods.{label}"
        if len(entry["train_loss"]) != len(entry["train_loss_std"]) or not entry["train_loss"]:
            _refuse(where, entry["train_loss_std"], "a deviation for each of one or more rounds")
        missing = [target for target in results["targets"] if target not in entry["rounds_to"]]
        if missing:
            _refuse(f"{where}.rounds_to", entry["rounds_to"], f"an entry {missing[0]!r:.100}")


def check_collection(values: Any) -> None:
    """Raises ResultsError unless `values` has the results of several problems."""
    _version(values, COLLECTION_VERSION)
    _fields("results", values, problems=_map_of(_titled))
    for problem in values["problems"].values():
        check_results(problem["results"])


def _version(value: Any, known: int) -> None:
    found = value.get("format_version", 1) if isinstance(value, dict) else None
    if type(found) is not int or found != known:
        raise ResultsError(
            f"it has format version {found!r:.50} and this comm_lopt reads {known}; run the "
            "command again, or read it with the version that wrote it."
        )


def _problem(where: str, value: Any) -> None:
    _fields(
        where,
        value,
        task=_text,
        num_workers=_count,
        num_local_steps=_count,
        local_batch_size=_optional(_count),
        num_rounds=_count,
        settings=_map_of(_any_text),
    )


def _titled(where: str, value: Any) -> None:
    _fields(where, value, title=_text, results=_map_of(_anything))


def _anything(where: str, value: Any) -> None:
    del where, value


def _method(where: str, value: Any) -> None:
    _fields(
        where,
        value,
        optimizer=_text,
        local_optimizer=_optional(_text),
        learned=_truth,
        hparams=_map_of(_setting),
        sources=_map_of(_any_text),
        theta=_optional(_map_of(_any_text)),
    )
    if value["learned"] and value["theta"] is not None:
        _fields(f"{where}.theta", value["theta"], path=_any_text, sha256=_text)


def _entry(where: str, value: Any) -> None:
    _method(where, value)
    _fields(
        where,
        value,
        train_loss=_list_of(_optional(_number)),
        train_loss_std=_list_of(_optional(_number)),
        diverged_seeds=_list_of(_integer),
        heldout=_heldout,
        rounds_to=_map_of(_optional(_count)),
        bytes_sent_per_round_per_worker=_count,
        bytes_received_per_round_per_worker=_count,
        **dict.fromkeys(
            [f"final_{name}{std}" for name in _LOSSES for std in ("", "_std")], _optional(_number)
        ),
    )


def _heldout(where: str, value: Any) -> None:
    names = ("loss", "loss_std", "accuracy", "accuracy_std")
    _fields(where, value, **dict.fromkeys(names, _optional(_number)))
    _map_of(_optional(_number))(
        where, {name: found for name, found in value.items() if name != "split"}
    )


_Check = Callable[[str, Any], None]


def _fields(where: str, value: Any, **checks: _Check) -> None:
    if not isinstance(value, dict):
        _refuse(where, value, "an object")
    for name, check in checks.items():
        if name not in value:
            _refuse(where, sorted(value)[:20], f"an entry {name!r}")
        check(f"{where}.{name}", value[name])


def _map_of(check: _Check) -> _Check:
    def checked(where: str, value: Any) -> None:
        if not isinstance(value, dict):
            _refuse(where, value, "an object")
        for name, item in value.items():
            _text(f"a name in {where}", name)
            check(f"{where}.{name:.50}", item)

    return checked


def _list_of(check: _Check) -> _Check:
    def checked(where: str, value: Any) -> None:
        if not isinstance(value, list) or len(value) > LARGEST_NUM_ROUNDS:
            _refuse(where, value, f"a list of at most {LARGEST_NUM_ROUNDS} values")
        for number, item in enumerate(value):
            check(f"{where}[{number}]", item)

    return checked


def _optional(check: _Check) -> _Check:
    def checked(where: str, value: Any) -> None:
        if value is not None:
            check(where, value)

    return checked


def _text(where: str, value: Any) -> None:
    # What is printed and drawn: a label has at most 200, and its target some more.
    if not isinstance(value, str) or len(value) > 300 or not value.isprintable():
        _refuse(where, value, "at most 300 printable characters")


def _any_text(where: str, value: Any) -> None:
    if not isinstance(value, str):
        _refuse(where, value, "a text")


def _truth(where: str, value: Any) -> None:
    if type(value) is not bool:
        _refuse(where, value, "true or false")


def _setting(where: str, value: Any) -> None:
    if value is not None and type(value) not in (bool, str):
        _number(where, value)


def _integer(where: str, value: Any) -> None:
    if type(value) is not int or abs(value) > _LARGEST:
        _refuse(where, value, "an integer of ordinary size")


def _count(where: str, value: Any) -> None:
    _integer(where, value)
    if value < 0:
        _refuse(where, value, "a count")


def _number(where: str, value: Any) -> None:
    number = type(value) in (int, float) and abs(value) < 1e300
    if not number or not math.isfinite(value):
        _refuse(where, value, "a finite number or null")


def _refuse(where: str, value: Any, rule: str) -> None:
    raise ResultsError(f"{where} is {value!r:.100}; it must be {rule}.")
