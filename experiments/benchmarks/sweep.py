"""What a sweep costs in one compiled program, against its grid points run one after another.

python experiments/benchmarks/sweep.py --out sweep.json

The problem: MLP 784-128-128-10 on 60,000 images of 28x28, K = 8, H = 4, B = 128; a grid of 12
learning rates of Local SGD, 5 seeds each, 5 rounds. Programs are counted as XLA compiles them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import timing
from meta_step import STEPS, WORKERS, images, indexed_family

from comm_lopt.meta_test import runs
from comm_lopt.meta_test.problem import Problem
from comm_lopt.methods import hand_designed

POINTS, SEEDS, ROUNDS = 12, (1, 2, 3, 4, 5), 5


class Measured:
    """Seconds of what runs, compiling left out, and how many programs were compiled for it."""

    def __init__(self) -> None:
        self.total: list[float] = []
        self.rounds: list[float] = []
        self.programs = 0

    def add(self, function: Callable[[], list[runs.Curves]]) -> None:
        """Calls a function that trains, and notes what it took."""
        compiled: list[str] = []

        def listen(event: str, seconds: float, **_: Any) -> None:
            if event == "/jax/core/compile/backend_compile_duration":
                compiled.append(event)

        jax.monitoring.register_event_duration_secs_listener(listen)
        begin = time.perf_counter()
        curves = function()
        self.total.append(time.perf_counter() - begin)
        jax.monitoring.clear_event_listeners()
        self.programs = len(compiled)
        self.rounds.append(sum(c.seconds_per_round * c.train_loss.size for c in curves))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="file for the figures, as JSON")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    problem = Problem(indexed_family(images()), WORKERS, STEPS, num_rounds=ROUNDS)
    candidate = hand_designed("LocalSGD")
    points = [{"local_learning_rate": float(r)} for r in np.geomspace(0.01, 1.0, POINTS)]
    ways = {
        "at_once": lambda: [runs.run(problem, candidate, SEEDS, points)],
        "one_by_one": lambda: [runs.run(problem, candidate, SEEDS, [p]) for p in points],
    }
    measured = {name: Measured() for name in ways}
    for way in ways.values():
        way()  # What JAX itself compiles for its small functions is not counted.
    for _ in range(arguments.repetitions):
        for name, way in ways.items():
            measured[name].add(way)
    at_once, one_by_one = measured["at_once"], measured["one_by_one"]
    timing.write(
        arguments.out,
        {
            "time_over_one_by_one": timing.median_ratio(at_once.total, one_by_one.total),
            "time_over_one_by_one_compiled_before": timing.median_ratio(
                at_once.rounds, one_by_one.rounds
            ),
            "programs": {name: measured[name].programs for name in ways},
            "seconds": {name: timing.median(measured[name].total) for name in ways},
        },
    )


if __name__ == "__main__":
    main()
