"""Results read from JSON, and whether they can be used: every value that is looked at later."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

__all__ = ["ResultsError", "check_results", "check_sweep", "read_json"]

_LARGEST = 10**12
_MANY = 10**6
# Results of ten optimizers over ten thousand rounds have 5 MB.
_MAX_BYTES = 1 << 24


class ResultsError(ValueError):
    """A file of results that cannot be read or reported."""


def read_json(path: pathlib.Path, check: Callable[[Any], None]) -> Any:
    """Reads a file of JSON values and checks them.

    Args:
      path: the file.
      check: raises ResultsError if the values are not as they should be.

    Raises:
      ResultsError: whatever is wrong with the file.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ResultsError(f"it has more than {_MAX_BYTES} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
        check(values)
    # RecursionError: of JSON that is nested too deeply.
    except (ValueError, OSError, RecursionError) as error:
        raise ResultsError(f"{path} cannot be used: {error}") from error
    return values


def check_sweep(sweep: Any) -> None:
    """Raises ResultsError unless `sweep` names an optimizer and its best hyperparameters."""
    _fields("sweep", sweep, optimizer=_text, best=_map_of(_number))


def check_results(results: Any) -> None:
    """Raises ResultsError unless `results` is as `make_results` makes it.

    Values that no report looks at may be anything.

    Args:
      results: what JSON gave.
    """
    _fields(
        "results",
        results,
        task=_text,
        num_workers=_count,
        num_local_steps=_count,
        local_batch_size=_optional(_count),
        num_rounds=_count,
        seeds=_list_of(_integer),
        optimizers=_map_of(_optimizer),
        targets=_map_of(_optional(_number)),
    )
    for name, entry in results["optimizers"].items():
        where = f"results.optimizers.{name}"
        if len(entry["train_loss"]) != len(entry["train_loss_std"]) or not entry["train_loss"]:
            _refuse(where, entry["train_loss_std"], "a deviation for each of one or more rounds")
        missing = [target for target in results["targets"] if target not in entry["rounds_to"]]
        if missing:
            _refuse(f"{where}.rounds_to", entry["rounds_to"], f"an entry {missing[0]!r:.100}")


def _optimizer(where: str, value: Any) -> None:
    _fields(
        where,
        value,
        hparams=_map_of(_number),
        train_loss=_list_of(_optional(_number)),
        train_loss_std=_list_of(_optional(_number)),
        final_train_loss=_optional(_number),
        diverged_seeds=_list_of(_integer),
        heldout=_heldout,
        rounds_to=_map_of(_optional(_count)),
        bytes_per_round_per_worker=_count,
    )


def _heldout(where: str, value: Any) -> None:
    _fields(where, value, loss=_optional(_number), accuracy=_optional(_number))
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
        if not isinstance(value, list) or len(value) > _MANY:
            _refuse(where, value, f"a list of at most {_MANY} values")
        for number, item in enumerate(value):
            check(f"{where}[{number}]", item)

    return checked


def _optional(check: _Check) -> _Check:
    def checked(where: str, value: Any) -> None:
        if value is not None:
            check(where, value)

    return checked


def _text(where: str, value: Any) -> None:
    # What is printed and drawn: a line of a table and a title.
    if not isinstance(value, str) or len(value) > 200 or not value.isprintable() or "$" in value:
        _refuse(where, value, "at most 200 printable characters, with no $")


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
