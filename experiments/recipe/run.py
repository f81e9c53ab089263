"""The recipe's ablation: each line is meta-trained and judged on the selection tasks.

python experiments/recipe/run.py --out_dir DIR [--lines a,b] [--seeds 0,1,2]

What is done is kept, a file for each line and meta-seed; a run that was killed goes on where it
was, with the meta-step at hand. Several processes may share the folder.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
from generalisation import kept, made_once, write_results
from lines import LINES, RATES
from selection import SEEDS, TASKS, SelectionTask, judged, load, tuned_baseline
from summary import of_line, of_theta
from table import figure, table

from comm_lopt.atomic import BusyError
from comm_lopt.cli.exit_codes import run_command
from comm_lopt.meta_train import DivergedError, meta_train
from comm_lopt.meta_train.log import METRICS_FILE
from comm_lopt.versions import versions

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out_dir", type=pathlib.Path, required=True)
    parser.add_argument(
        "--lines", type=lambda text: text.split(","), default=list(LINES), metavar="A,B,..."
    )
    parser.add_argument(
        "--seeds",
        type=lambda text: [int(seed) for seed in text.split(",")],
        default=[0, 1, 2],
        metavar="0,1,...",
        help="meta-seeds (default: 0,1,2)",
    )
    flags = parser.parse_args(arguments)
    return run_command("recipe", lambda: _all(flags))


def _all(flags: argparse.Namespace) -> int:
    """Runs what is missing and writes the table of all that is there."""
    out_dir: pathlib.Path = flags.out_dir.expanduser()
    unknown = [name for name in flags.lines if name not in LINES]
    if unknown:
        raise ValueError(f"there is no {', '.join(unknown)}; choose of {', '.join(LINES)}.")
    if jax.config.jax_compilation_cache_dir is None:
        # Many lines and all seeds have the same programs, which take longer than what they do.
        jax.config.update("jax_compilation_cache_dir", str(out_dir / "programs"))
    tasks = {name: load(name) for name in TASKS}
    failed = []
    # All lines with one seed first: a table that is half done is of all of them.
    for seed in flags.seeds:
        for name in flags.lines:
            try:
                done(out_dir, name, seed, tasks)
            except BusyError as error:
                print(f"{name}, {seed}: {error}", file=sys.stderr)
            # One that cannot be meta-trained ends no other.
            except (ValueError, DivergedError) as error:
                failed.append(name)
                print(f"{name}, {seed}: {error}", file=sys.stderr)
            jax.clear_caches()
    baselines = {name: tuned_baseline(out_dir / "slowmo", task) for name, task in tasks.items()}
    write_summary(out_dir, tasks, baselines)
    return 1 if failed else 0


def done(out_dir: pathlib.Path, name: str, seed: int, tasks: Mapping[str, SelectionTask]) -> None:
    """Meta-trains a line with a seed and judges theta, unless its record is there.

    Raises:
      BusyError: another process is at it.
      ValueError: the line cannot be meta-trained, or was begun with other settings.
      DivergedError: meta-training diverged.
    """
    folder, line = out_dir / "runs" / f"{name}_{seed}", LINES[name]

    def make() -> dict[str, Any]:
        resumed = (folder / METRICS_FILE).exists()
        begin = time.monotonic(), time.process_time()
        opt, theta = meta_train(folder, seed=seed, resume=True, progress=False)
        trained = time.monotonic(), time.process_time()
        around = line.local_optimizer, line.rates
        losses = {n: judged(task, opt, theta, *around) for n, task in tasks.items()}
        wall, cpu = (round(end - start, 1) for end, start in zip(trained, begin, strict=True))
        judging = round(time.monotonic() - trained[0], 1)
        print(f"{name}, {seed}: meta-trained in {wall} s, judged in {judging} s", flush=True)
        seconds = {"wall": None, "cpu": None} if resumed else {"wall": wall, "cpu": cpu}
        return {"losses": losses, "seconds": seconds, "versions": versions()}

    told = _description(name, seed, tasks)
    made_once(_path(out_dir, name, seed), told, make)


def _path(out_dir: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    return out_dir / "lines" / f"{name}_{seed}.json"


def _description(name: str, seed: int, tasks: Mapping[str, SelectionTask]) -> dict[str, Any]:
    """What decides a record; has gin describe the line's meta-training."""
    LINES[name].load()
    return {
        "problems": {n: task.told for n, task in tasks.items()},
        "config": gin.config_str(),
        "seed": seed,
        "rates": list(LINES[name].rates),
        "seeds": list(SEEDS),
    }


def write_summary(
    out_dir: pathlib.Path,
    tasks: Mapping[str, SelectionTask],
    baselines: Mapping[str, Mapping[str, Any]],
) -> None:
    """Writes results.json, table.md and ratios.png of all records in the folder."""
    reference = {name: found["losses"] for name, found in baselines.items()}
    lines = {}
    for name, line in LINES.items():
        thetas = {}
        for path in sorted((out_dir / "lines").glob(f"{name}_*.json")):
            seed = path.stem.removeprefix(f"{name}_")
            record = seed.isdecimal() and kept(path, _description(name, int(seed), tasks))
            if record:
                found = of_theta(record["losses"], reference)
                thetas[seed] = {**found, "losses": record["losses"], "seconds": record["seconds"]}
        if thetas:
            lines[name] = {
                "change": line.change,
                "rates": list(line.rates),
                "thetas": thetas,
                "summary": of_line(thetas),
            }
    if not lines:
        return
    results = {
        "format_version": 1,
        "problems": {name: task.told for name, task in tasks.items()},
        "rates": list(RATES),
        "seeds": list(SEEDS),
        "baselines": baselines,
        "lines": lines,
        "versions": versions(),
    }
    write_results(out_dir, results, table(results), lambda: figure(results), "ratios.png")


if __name__ == "__main__":
    sys.exit(main())
