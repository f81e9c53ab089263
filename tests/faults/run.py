"""Puts faults into copies of the repository, one at a time, and tells which the tests notice.

python tests/faults/run.py [--only NAME] [--jobs 2] [--out FOLDER]

The faults are the `*.toml` beside this file: those that people make, written by hand. (mutmut and
cosmic-ray change every operator there is, run thousands of mutants, and many of them are equal.)
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import unittest.mock
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

HERE = pathlib.Path(__file__).resolve().parent
LEAST_CAUGHT = 0.95
_PASSED, _FAILED, _NO_END = 0, 1, -1
_SECONDS = 1800
_CACHE = "JAX_COMPILATION_CACHE_DIR"
_FAILED_TEST = re.compile(r"^(?:FAILED|ERROR) ([^\s\[]+)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Fault:
    """A change of one place in the code.

    Attributes:
      name: what is wrong with it, in words.
      file: path in the repository.
      old: text that stands in the file once.
      new: what it is replaced by.
      tests: those that should notice, the most likely first, as pytest is told them.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def put_in(self, root: pathlib.Path) -> None:
        """Changes the file below `root`.

        Raises:
          ValueError: the text is not there, or more than once.
        """
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file} has the old text {text.count(self.old)} times")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a fault.

    Attributes:
      fault: which.
      status: "caught", "survived" or "invalid".
      told: the test that failed first, or why it is invalid.
    """

    fault: Fault
    status: str
    told: str


def read_faults(folder: pathlib.Path = HERE) -> list[Fault]:
    """The faults of all files in a folder.

    Raises:
      ValueError: two of one name.
    """
    faults = [
        Fault(**{**found, "tests": tuple(found["tests"])})
        for path in sorted(folder.glob("*.toml"))
        for found in tomllib.loads(path.read_text(encoding="utf-8"))["fault"]
    ]
    names = [fault.name for fault in faults]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"two faults have the name {sorted(twice)}; give each its own.")
    return faults


def copied(root: pathlib.Path, to: pathlib.Path) -> None:
    """Copies the files that git tracks, as they are in the work tree."""
    tracked = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, tracked.split("\0")):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, to / name)


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Has JAX keep the programs, which are the same in all copies but for a few."""
    with tempfile.TemporaryDirectory(prefix="fault-programs-") as folder:
        kept = {_CACHE: folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        with unittest.mock.patch.dict(os.environ, {} if _CACHE in os.environ else kept):
            yield


def run_tests(copy: pathlib.Path, tests: Sequence[str], *flags: str) -> tuple[int, str]:
    """Pytest's exit status and output, in a copy and of what lies there."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", "-rfE"]
    try:
        done = subprocess.run(
            [*command, *flags, *tests], cwd=copy, env=environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return _NO_END, f"no end after {_SECONDS} seconds"
    return done.returncode, done.stdout


def require_import_from(copy: pathlib.Path, package: str) -> None:
    """Raises RuntimeError if the tests of a copy would run on an installed package."""
    program = f"import importlib.util; print(importlib.util.find_spec({package!r}).origin)"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=copy, text=True, capture_output=True, check=True,
        env={**os.environ, "PYTHONPATH": str(copy)},
    ).stdout.strip()  # fmt: skip
    if copy not in pathlib.Path(found).parents:
        raise RuntimeError(f"{package} would come from {found} and not from {copy}.")


@contextlib.contextmanager
def copy_of(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary copy of the repository."""
    with tempfile.TemporaryDirectory(prefix="fault-") as folder:
        copy = pathlib.Path(folder).resolve()
        copied(root, copy)
        yield copy


def failing(root: pathlib.Path, tests: Sequence[str]) -> set[str]:
    """Those of the tests that fail without any fault.

    Raises:
      RuntimeError: pytest cannot run them, such as where one is not there.
    """
    with copy_of(root) as copy:
        status, output = run_tests(copy, tests)
    if status not in (_PASSED, _FAILED):
        raise RuntimeError(f"the tests cannot be run without a fault:\n{output[-2000:]}")
    return set(_FAILED_TEST.findall(output))


def outcome_of(root: pathlib.Path, fault: Fault, failing_anyway: set[str], wide: bool) -> Outcome:
    """Puts a fault in and runs its tests, and if these pass and `wide`, all others."""
    with copy_of(root) as copy:
        try:
            fault.put_in(copy)
        except (OSError, ValueError) as error:
            return Outcome(fault, "invalid", str(error))
        require_import_from(copy, fault.file.partition("/")[0])
        status, output = run_tests(copy, fault.tests, "-x")
        if status == _PASSED and wide:
            # The tests of the faults themselves see that a text has changed.
            status, output = run_tests(copy, ["tests"], "-x", "--ignore", "tests/faults")
            if status == _FAILED:
                failing_anyway = failing(root, _FAILED_TEST.findall(output))
    if status == _PASSED:
        return Outcome(fault, "survived", "")
    if status != _FAILED:
        return Outcome(fault, "invalid", output.strip().splitlines()[-1])
    test = _FAILED_TEST.findall(output)[0]
    if test in failing_anyway:
        return Outcome(fault, "invalid", f"{test} fails without it")
    return Outcome(fault, "caught", test)


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes in Markdown."""
    count = sum(outcome.status == "caught" for outcome in outcomes)
    lines = [
        f"{count} of {len(outcomes)} faults are noticed.",
        "",
        "| fault | in | noticed by |",
        "| --- | --- | --- |",
    ]
    for outcome in outcomes:
        noticed = f"`{outcome.told.rpartition('::')[2]}`"
        told = noticed if outcome.status == "caught" else f"**{outcome.status}** {outcome.told}"
        file = outcome.fault.file.partition("/")[2]
        lines.append(f"| {outcome.fault.name} | `{file}` | {told} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 1 if less than 95 % of the faults are caught."""
    parser = argparse.ArgumentParser(description="Tells which faults the tests notice.")
    parser.add_argument("--only", action="append", metavar="NAME", help="one fault; repeatable")
    parser.add_argument("--jobs", type=int, default=2, help="faults side by side (default: 2)")
    parser.add_argument(
        "--named_only", action="store_true", help="run no other tests where the named ones pass"
    )
    parser.add_argument("--out", type=pathlib.Path, help="folder for table.md and results.json")
    parser.add_argument("--root", type=pathlib.Path, default=HERE.parents[1], help="repository")
    parser.add_argument("--faults", type=pathlib.Path, default=HERE, help="folder of the lists")
    arguments = parser.parse_args(argv)
    faults = [f for f in read_faults(arguments.faults) if f.name in (arguments.only or [f.name])]
    if not faults:
        parser.error(f"there is no fault {arguments.only} in {arguments.faults}")
    tests = sorted({test for fault in faults for test in fault.tests})

    def try_out(fault: Fault) -> Outcome:
        outcome = outcome_of(arguments.root, fault, failing_anyway, not arguments.named_only)
        print(f"{outcome.status}: {fault.name} ({outcome.told})", flush=True)
        return outcome

    with compiled_once(), ThreadPoolExecutor(arguments.jobs) as pool:
        failing_anyway = failing(arguments.root, tests)
        outcomes = list(pool.map(try_out, faults))
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "table.md").write_text(table(outcomes), encoding="utf-8")
        found = [dataclasses.asdict(outcome) for outcome in outcomes]
        (arguments.out / "results.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
    caught = [outcome for outcome in outcomes if outcome.status == "caught"]
    print(f"{len(caught)} of {len(outcomes)} caught")
    return int(len(caught) < LEAST_CAUGHT * len(outcomes))


if __name__ == "__main__":
    sys.exit(main())
