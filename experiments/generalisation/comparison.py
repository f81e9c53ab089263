"""Methods on a problem: baselines are tuned, all are tested, and nothing is done twice."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from grids import BASELINES, Plan
from records import description, merged, read_record, same_problem, write_record
from tuning import TUNING_SEEDS, Tuned, tune

from comm_lopt.atomic import BusyError, locked
from comm_lopt.cli.method_specs import method_of_theta
from comm_lopt.meta_test import Problem, make_results, run
from comm_lopt.methods import Method, hand_designed

__all__ = ["Test", "collected", "compared"]

Records = dict[str, dict[str, Any]]


class Test(Protocol):
    """A problem, and how methods are compared on it; see `TestProblem`."""

    __test__ = False  # No test case of pytest's.

    @property
    def name(self) -> str: ...
    @property
    def task(self) -> int: ...
    @property
    def title(self) -> str: ...
    @property
    def tuning_rounds(self) -> int | None: ...
    @property
    def lean(self) -> tuple[str, ...]: ...
    @property
    def leanest(self) -> tuple[str, ...]: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    def load(self) -> Problem: ...


def compared(
    folder: pathlib.Path,
    test: Test,
    baselines: Sequence[str],
    thetas: Sequence[str],
    tuned: pathlib.Path | None = None,
) -> list[str]:
    """Does what is missing of a problem's comparison.

    Args:
      folder: of the problem's records, one for each method.
      test: the problem.
      baselines: names of `BASELINES`.
      thetas: learned methods, as for comm-lopt meta-test.
      tuned: a folder like `folder`, whose records' tuning stands where it is of the same problem
        and the same grid; None tunes all.

    Returns:
      What could not be done, as "problem, method".
    """
    problem = test.load()
    # Made anew for each problem: what they take from gin is what its file says.
    methods = [hand_designed(baseline) for baseline in baselines]
    methods += [method_of_theta(spec, problem) for spec in thetas]
    failed = []
    for method in methods:
        try:
            _done(folder, test, problem, method, tuned)
        except BusyError as error:
            print(f"{test.name}, {method.label}: {error}", file=sys.stderr)
        # One that does not fit this problem, or diverges at every point, ends no other.
        except ValueError as error:
            failed.append(f"{test.name}, {method.label}")
            print(f"{failed[-1]}: {error}", file=sys.stderr)
    return failed


def _done(
    folder: pathlib.Path,
    test: Test,
    problem: Problem,
    method: Method,
    tuned_before: pathlib.Path | None,
) -> None:
    """Tunes and tests a method on a problem, unless its record is there.

    Raises:
      BusyError: another process is at it.
      ValueError: the method does not fit the problem, or diverged wherever it was tried.
    """
    plan = None if method.is_learned else _plan_of(test, method)
    asked = {**plan.describe(), "rounds": test.tuning_rounds} if plan else None
    told = description(problem.describe(), method.describe(), asked, test.seeds)
    path = folder / f"{method.label}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f".{method.label}.lock", "another process is at it."):
        if read_record(path, told):
            return
        begin = [time.process_time(), time.monotonic()]
        tuned, tuning = method, None
        if plan:
            before = tuned_before and read_record(tuned_before / path.name, told)
            if before:
                found = Tuned(**before["tuning"])
            else:
                found = tune(problem, method, plan, test.tuning_rounds)
            tuned = method.with_values(f"tuned on seeds {TUNING_SEEDS}", **found.best)
            tuning = dataclasses.asdict(found)
        middle = time.process_time()
        curves = run(problem, tuned, test.seeds, evaluations="end")
        results = make_results(problem, test.seeds, {method.label: (tuned, curves)})
        spent = {"tuning": middle - begin[0], "test": time.process_time() - middle}
        record = {
            "description": told, "results": results, "tuning": tuning, "cpu_seconds": spent,
        }  # fmt: skip
        write_record(path, record)
    entry = results["methods"][method.label]
    print(
        f"{folder.name}, {method.label}: {entry['final_train_loss']}, {tuning and found.best}, "
        f"CPU {spent['tuning']:.0f} + {spent['test']:.0f} s, {time.monotonic() - begin[1]:.0f} s; "
        f"on the edge: {tuning and found.on_edge}",
        flush=True,
    )


def _plan_of(test: Test, method: Method) -> Plan:
    """How a baseline is tuned on a problem."""
    plan = BASELINES[method.label]
    if method.label in test.leanest:
        return plan.leanest()
    return plan.lean() if method.label in test.lean else plan


def collected(out_dir: pathlib.Path, tests: Iterable[Test]) -> dict[str, Any]:
    """All records in the folder, by problem: its title, results, tuning and CPU seconds."""
    problems = {}
    for test in tests:
        records = _records(out_dir / test.name)
        if records:
            problems[test.name] = {
                "task": test.task,
                "title": test.title,
                "results": merged(records),
                "tuning": {label: record["tuning"] for label, record in records.items()},
                "cpu_seconds": {label: r["cpu_seconds"] for label, r in records.items()},
            }
    return problems


def _records(folder: pathlib.Path) -> Records:
    """The records of a problem: baselines in their order, then learned methods by name.

    Those of another problem or of other seeds than the newest are left out.
    """
    order: Mapping[str, int] = {name: number for number, name in enumerate(BASELINES)}
    paths = sorted(folder.glob("*.json"), key=lambda p: (order.get(p.stem, len(order)), p.stem))
    records = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    newest = max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)
    if newest is None:
        return {}
    kept = {m: r for m, r in records.items() if same_problem(r, records[newest.stem])}
    for method in records.keys() - kept.keys():
        print(f"{folder.name}, {method}: left out, of another problem", file=sys.stderr)
    return kept
