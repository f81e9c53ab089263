"""What a second process costs: meta-steps of twice the tasks, over those of one process.

python experiments/benchmarks/processes.py --out processes.json

Meta-training of experiments/digits.gin, by one process and by two, each kept on one core of its
own (`comm-lopt launch --cores_per_process 1`), with 8 tasks each. In a pair one run follows the
other. A run's figure is the median over its meta-steps but the first few, in which it compiles;
there is neither a validation nor a checkpoint among them.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import pathlib
import tempfile

import numpy as np
import timing

from comm_lopt.cli.launch import launch

FIRST = 5


def seconds_per_meta_step(num_processes: int, num_meta_steps: int, folder: pathlib.Path) -> float:
    """Median over the meta-steps of a run."""
    bindings = [
        f"num_meta_steps = {num_meta_steps}",
        "ThetaAdamW.warmup_steps = 0",
        "meta_train.validation_every = 0",
        f"meta_train.checkpoint_every = {num_meta_steps}",
    ]
    command = ["meta-train", "--config_file", "experiments/digits.gin", "--no_progress"]
    command += [part for binding in bindings for part in ("--gin_bindings", binding)]
    command += ["--train_log_dir", str(folder)]
    launch(command, num_processes, io.StringIO(), cores_per_process=1)
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    return timing.median(list(np.diff(seconds)[FIRST:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="file for the figures, as JSON")
    parser.add_argument("--repetitions", type=int, default=5, help="pairs of runs")
    parser.add_argument("--num_meta_steps", type=int, default=60, help="of each run")
    arguments = parser.parse_args()
    # One thread computes, which is what one core would do best.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(pathlib.Path(name) / "compiled")
        for pair in range(arguments.repetitions):
            for count, found in seconds.items():
                folder = pathlib.Path(name) / f"{pair}_{count}"
                found.append(seconds_per_meta_step(count, arguments.num_meta_steps, folder))
    timing.write(
        arguments.out,
        {
            "twice_the_tasks_over_one_process": timing.median_ratio(seconds[2], seconds[1]),
            "seconds_per_meta_step": {
                "one_process": timing.median(seconds[1]),
                "two_processes": timing.median(seconds[2]),
            },
            "pairs": arguments.repetitions,
            "meta_steps": arguments.num_meta_steps,
        },
    )


if __name__ == "__main__":
    main()
