"""What a round costs, and how long a loss takes on three links: computed, and seen.

python experiments/reproduction/cost/run.py --out_dir DIR [--methods A,B] [--rounds T]

Two processes on this machine train task 1 of ../../generalisation (Fashion-MNIST, MLP 128-128, K 8,
H 4, B 32, T 100) by `comm-lopt launch`, each on a core of its own, with values that were tuned
there: on the bare loopback, and on links limited to 1,000 and 100 Mbit/s. Writes results.json,
table.md and time.png. Each run is a record of its own in DIR, and is not done again. To be run on
a quiet machine.
"""

from __future__ import annotations

import argparse
import csv
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from comm_lopt.cli.exit_codes import run_command
from comm_lopt.meta_test import rounds_to
from comm_lopt.meta_test.runs import running_mean
from comm_lopt.optimizers.registry import OPTIMIZERS
from comm_lopt.palette import looks
from comm_lopt.pictures import empty_figure, without_tex
from comm_lopt.report import markdown_rows
from comm_lopt.report.figures import log_axis
from comm_lopt.train import Link
from comm_lopt.train.log import ROUNDS_FILE
from comm_lopt.versions import versions

EXPERIMENTS = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(EXPERIMENTS / "reproduction"))

from tuned import made_once, write_results  # noqa: E402

__all__ = ["description", "main", "seconds_to", "table"]

TASK = EXPERIMENTS / "generalisation" / "tasks" / "mlp.gin"
TUNED = EXPERIMENTS / "generalisation" / "results" / "mlp"
METHODS = {
    "LocalSGD": None,
    "SlowMo": None,
    "DiLoCo": None,
    "DataParallelAdam": None,
    "LOptR": "lopt-r-1:local_learning_rate=0.1",
    "LAggR": "lagg-r-1:local_learning_rate=0.1",
}
"""By label; the theta of a learned one."""
TARGETS = ("LocalSGD", "SlowMo")
"""Whose final losses are to be reached."""
LINKS = (10_000.0, 1_000.0, 100.0)
"""Mbit/s, for which times are computed."""
THROTTLED = (1_000.0, 100.0)
"""Those on which they are seen as well; two processes on one machine move less than 10 Gbit/s."""
_SENT = re.compile(r"a worker sends ([\d,]+) and receives ([\d,]+) bytes")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out_dir", type=pathlib.Path, required=True)
    parser.add_argument(
        "--methods", type=lambda text: text.split(","), default=list(METHODS), metavar="A,B,..."
    )
    parser.add_argument("--rounds", type=int, default=100, help="T (default: 100)")
    flags = parser.parse_args(arguments)
    return run_command("cost", lambda: _all(flags))


def _all(flags: argparse.Namespace) -> int:
    out_dir: pathlib.Path = flags.out_dir.expanduser()
    runs: dict[str, dict[str, Any]] = {}
    for method in flags.methods:
        for mbps in (None, *THROTTLED):
            runs.setdefault(method, {})[_link(mbps)] = _run(out_dir, method, mbps, flags.rounds)
    results = {
        "format_version": 1,
        "rounds": flags.rounds,
        "links": list(LINKS),
        "runs": runs,
        "versions": versions(),
    }
    write_results(out_dir, results, table(results), lambda: figure(results), "time.png")
    return 0


def _link(mbps: float | None) -> str:
    return "loopback" if mbps is None else f"{mbps:g}"


def _run(out_dir: pathlib.Path, method: str, mbps: float | None, rounds: int) -> dict[str, Any]:
    """A run of a method on a link: medians of a round's seconds, its losses and bytes."""
    name = f"{method}_{_link(mbps)}_{rounds}"
    found = made_once(
        out_dir / "records" / f"{name}.json",
        description(method, mbps, rounds),
        lambda: _measured(out_dir / "runs" / name, method, mbps, rounds),
    )
    return {key: value for key, value in found.items() if key != "description"}


def description(method: str, mbps: float | None, rounds: int) -> dict[str, Any]:
    """What decides the record of a run."""
    return {
        "task": TASK.read_text(encoding="utf-8"),
        "method": _method_flags(method),
        "rounds": rounds,
        "mbps": mbps,
    }


def _measured(folder: pathlib.Path, method: str, mbps: float | None, rounds: int) -> dict[str, Any]:
    throttle = [] if mbps is None else ["--throttle_mbps", f"{mbps:g}"]
    command = [
        sys.executable, "-m", "comm_lopt", "launch", "-n", "2", "--cores_per_process", "1",
        *throttle, "--", "train", "--config_file", str(TASK),
        "--gin_bindings", f"num_rounds = {rounds}", "--gin_bindings",
        f"train.evaluate_every = {rounds}", *_method_flags(method), "--resume", "--no_progress",
        "--out_dir", str(folder),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}"
        )
    (told,) = _SENT.findall(done.stdout)
    sent, received = (int(number.replace(",", "")) for number in told)
    with (folder / ROUNDS_FILE).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    # The first rounds compile.
    working, merging = (
        float(np.median([float(row[f"seconds_{what}"]) for row in rows[len(rows) // 4 :]]))
        for what in ("working", "merging")
    )
    found: dict[str, Any] = {
        "train_loss": [float(row["train_loss"]) for row in rows],
        "seconds_working": working,
        "seconds_merging": merging,
        "bytes_sent": sent,
        "bytes_received": received,
        "limited_by": None if mbps is None else ("tc" if "by tc" in done.stderr else "waiting"),
    }
    print(f"{method}, {_link(mbps)}: {1e3 * working:.1f} + {1e3 * merging:.1f} ms", flush=True)
    return found


def _method_flags(method: str) -> list[str]:
    theta = METHODS[method]
    if theta is not None:
        return ["--theta", theta]
    found = json.loads((TUNED / f"{method}.json").read_text(encoding="utf-8"))
    values = ",".join(f"{name}={value:g}" for name, value in found["tuning"]["best"].items())
    return ["--optimizer", f"{method}:{values}"]


def seconds_to(run: Mapping[str, Any], target: float, link: Link | None) -> float | None:
    """Seconds until a run's loss is at most `target`; None if it never is."""
    reached = rounds_to(np.asarray(run["train_loss"]), target)
    return None if reached is None else reached * _seconds_per_round(run, link)


def _seconds_per_round(run: Mapping[str, Any], link: Link | None) -> float:
    """Local steps + merge + bytes / link.

    The merge is as measured on the loopback, the global rule and the exchange there included; on
    the link that a run was measured on (None) the last term is left out.
    """
    measured: float = run["seconds_working"] + run["seconds_merging"]
    return measured + (link.seconds(run["bytes_sent"], run["bytes_received"]) if link else 0.0)


def final_loss(results: Mapping[str, Any], method: str) -> float:
    """The mean of a method's last 5 % of rounds on the loopback."""
    return float(running_mean(results["runs"][method]["loopback"]["train_loss"])[-1])


def table(results: Mapping[str, Any]) -> str:
    """Costs of all methods, and their times to each target, as Markdown."""
    runs = results["runs"]
    kinds = {run["limited_by"] for of in runs.values() for run in of.values()} - {None}
    rows = [["method", "KB sent / received a round", "local steps, ms", "merge, ms"]]
    for method, of in runs.items():
        free = of["loopback"]
        rows.append(
            [
                method,
                f"{free['bytes_sent'] / 1e3:.0f} / {free['bytes_received'] / 1e3:.0f}",
                f"{1e3 * free['seconds_working']:.1f}",
                f"{1e3 * free['seconds_merging']:.1f}",
            ]
        )
    parts = [
        "# What a round costs, and how long a loss takes",
        "Local steps and merge, with the global rule and waiting, are medians on the loopback.",
        markdown_rows(rows),
    ]
    for method in TARGETS:
        if method in runs:
            target = final_loss(results, method)
            parts += [
                f"## To {method}'s final training loss, {target:.4f}",
                f"T = {results['rounds']}. *Computed* adds the bytes over the link to what was "
                "measured on the loopback, *seen* is a run on a link limited by "
                f"{' and '.join(sorted(kinds))}.",
                markdown_rows(_times(results, target)),
            ]
    return "\n\n".join(parts) + "\n"


def _times(results: Mapping[str, Any], target: float) -> list[list[str]]:
    links = [Link(mbps) for mbps in results["links"]]
    seen = [name for name in next(iter(results["runs"].values())) if name != "loopback"]
    header = ["method", "rounds", *(f"{_speed(link.mbps)}: computed s" for link in links)]
    rows = [[*header, *(f"{_speed(float(name))}: seen s" for name in seen)]]
    for method, runs in results["runs"].items():
        free = runs["loopback"]
        reached = rounds_to(np.asarray(free["train_loss"]), target)
        times = [seconds_to(free, target, link) for link in links]
        times += [seconds_to(runs[name], target, None) for name in seen]
        told = "-" if reached is None else str(reached)
        rows.append([method, told, *("-" if s is None else f"{s:.2f}" for s in times)])
    return rows


def _speed(mbps: float) -> str:
    return f"{mbps / 1e3:g} Gbit/s" if mbps >= 1e3 else f"{mbps:g} Mbit/s"


@without_tex()
def figure(results: Mapping[str, Any]) -> Any:
    """Training loss over computed seconds, a panel for each link."""
    picture = empty_figure(10.0, 3.4, "constrained")
    panels = picture.subplots(1, len(results["links"]), sharey=True)
    drawn_as = looks(
        (method, {"optimizer": method, "learned": entry.is_learned, "sends": entry.sends})
        for method, entry in OPTIMIZERS.items()
        if method in results["runs"]
    )
    for axes, mbps in zip(np.atleast_1d(panels), results["links"], strict=True):
        for method, runs in results["runs"].items():
            run = runs["loopback"]
            seconds = _seconds_per_round(run, Link(mbps)) * np.arange(1, 1 + len(run["train_loss"]))
            look = drawn_as[method]
            axes.plot(
                seconds, run["train_loss"], label=method, color=look.colour.light,
                linestyle=look.linestyle, linewidth=look.width,
            )  # fmt: skip
        axes.set_title(_speed(mbps), fontsize=10)
        axes.set_xlabel("seconds")
        log_axis(axes)
        axes.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(panels)[0].set_ylabel("training loss")
    np.atleast_1d(panels)[-1].legend(frameon=False, fontsize=8)
    return picture


if __name__ == "__main__":
    sys.exit(main())
