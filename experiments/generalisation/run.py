"""The test tasks: tuned baselines and learned methods on each, in one table.

python experiments/generalisation/run.py --out_dir DIR --theta LOptR=FOLDER:local_learning_rate=0.3

What is done is kept in a file for each task and method: a run that was killed goes on with what is
missing, and a new theta costs its own test runs. Several processes may share the folder.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from comparison import collected, compared
from grids import BASELINES
from problems import PROBLEMS
from records import write_results
from table import figure, table
from verdicts import rate_spreads, verdicts

from comm_lopt.cli.exit_codes import run_command
from comm_lopt.versions import versions

__all__ = ["main"]


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
    parser.add_argument(
        "--tuned",
        type=pathlib.Path,
        metavar="DIR",
        help="take what tuning found from the records there, such as results/, and only test",
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
        tuned = flags.tuned and flags.tuned / name
        failed += compared(out_dir / name, PROBLEMS[name], flags.methods, flags.theta, tuned)
    write_summary(out_dir)
    return 1 if failed else 0


def write_summary(out_dir: pathlib.Path) -> None:
    """Writes results.json, table.md and loss.png of all records in the folder."""
    problems = collected(out_dir, PROBLEMS.values())
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


if __name__ == "__main__":
    sys.exit(main())
