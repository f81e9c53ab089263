"""The test tasks: tuned baselines and learned methods on each, in one table.

python experiments/generalisation/run.py --out_dir DIR --theta LOptR=FOLDER:local_learning_rate=0.3

What is done is kept in a file for each task and method: a run that was killed goes on with what is
missing, and a new theta costs its own test runs. Several processes may share the folder.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from grids import BASELINES, Plan
from problems import PROBLEMS, TestProblem
from records import description, merged, read_record, same_problem, write_record, write_results
from table import figure, table
from tuning import TUNING_SEEDS, tune
from verdicts import rate_spreads, verdicts

from comm_lopt.atomic import BusyError, locked
from comm_lopt.cli.exit_codes import run_command
from comm_lopt.cli.method_specs import method_of_theta
from comm_lopt.meta_test import Problem, make_results, run
from comm_lopt.methods import Method, hand_designed
from comm_lopt.versions import versions

__all__ = ["main"]

Records = dict[str, dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out_dir", type=pathlib.Path, required=True)
    parser.add_argument("--tasks", type=_names, default=list(PROBLEMS), metavar="A,B,...")
    parser.add_argument(
        "--methods",
        type=_names,
        default=list(BASELINES),
        metavar="A,B,...",
        help="baselines (default: all; 'none' for the learned ones alone)",
    )
    parser.add_argument(
        "--theta",
        action="append",
        default=[],
        metavar="[LABEL=]DIR[:KEY=X,...]",
        help="a learned method, as for comm-lopt meta-test; repeatable",
    )
    flags = parser.parse_args(arguments)
    return run_command("generalisation", lambda: _all(flags))


def _names(text: str) -> list[str]:
    return [] if text == "none" else text.split(",")


def _all(flags: argparse.Namespace) -> int:
    """Runs what is missing and writes the table of all that is there."""
    out_dir: pathlib.Path = flags.out_dir.expanduser()
    for names, known in ((flags.tasks, PROBLEMS), (flags.methods, BASELINES)):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"there is no {', '.join(unknown)}; choose of {', '.join(known)}.")
    failed = []
    for name in flags.tasks:
        test = PROBLEMS[name]
        problem = test.load()
        # Made anew for each problem: what they take from gin is what its file says.
        methods = [hand_designed(baseline) for baseline in flags.methods]
        methods += [method_of_theta(spec) for spec in flags.theta]
        for method in methods:
            try:
                done(out_dir / name, test, problem, method)
            except BusyError as error:
                print(f"{name}, {method.label}: {error}", file=sys.stderr)
            # One that does not fit this problem, or diverges at every point, ends no other.
            except ValueError as error:
                failed.append(f"{name}, {method.label}")
                print(f"{failed[-1]}: {error}", file=sys.stderr)
    write_summary(out_dir)
    return 1 if failed else 0


def done(folder: pathlib.Path, test: TestProblem, problem: Problem, method: Method) -> None:
    """Tunes and tests a method on a problem, unless its record is there.

    Raises:
      BusyError: another process is at it.
      ValueError: the method does not fit the problem, or diverged wherever it was tried.
    """
    plan = None if method.is_learned else plan_of(test, method)
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
            found = tune(problem, method, plan, test.tuning_rounds)
            tuned = method.with_values(f"tuned on seeds {TUNING_SEEDS}", **found.best)
            tuning = {"best": found.best, "on_edge": found.on_edge, "stages": found.stages}
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


def plan_of(test: TestProblem, method: Method) -> Plan:
    """How a baseline is tuned on a problem."""
    plan = BASELINES[method.label]
    if method.label in test.leanest:
        return plan.leanest()
    return plan.lean() if method.label in test.lean else plan


def write_summary(out_dir: pathlib.Path) -> None:
    """Writes results.json, table.md and loss.png of all records in the folder."""
    problems: dict[str, dict[str, Any]] = {}
    for name, test in PROBLEMS.items():
        records = _records(out_dir / name)
        if records:
            problems[name] = {
                "task": test.task,
                "title": test.title,
                "results": merged(records),
                "tuning": {label: record["tuning"] for label, record in records.items()},
                "cpu_seconds": {label: r["cpu_seconds"] for label, r in records.items()},
            }
    if not problems:
        return
    tasks = {name: test.task for name, test in PROBLEMS.items()}
    all_results = {name: problem["results"] for name, problem in problems.items()}
    summary = {
        "format_version": 1,
        "problems": problems,
        "verdicts": verdicts(tasks, all_results),
        "rate_spreads": rate_spreads(all_results),
        "versions": versions(),
    }
    write_results(out_dir, summary, table(summary), lambda: figure(problems), "loss.png")


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


if __name__ == "__main__":
    sys.exit(main())
