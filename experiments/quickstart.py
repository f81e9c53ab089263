"""The quickstart: meta-trains LOptR on the bundled digits, and trains what it never saw with it.

Run it with `make quickstart`. Beside the theta that it meta-trains stands the one that ships, and
beside both tuned baselines. It exits with 1 if the one that ships does not beat tuned SlowMo, and
after an error as `comm-lopt` does.

Every other number that is chosen stands in gin/experiments/quickstart.gin. Baselines are tuned on
TUNING_SEEDS; the comparison uses FINAL_SEEDS, which no tuning has seen.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import comm_lopt
from comm_lopt import meta_test
from comm_lopt.cli.exit_codes import run_command
from comm_lopt.cli.method_specs import method_of_theta
from comm_lopt.meta_test.results import alone_in
from comm_lopt.meta_train import meta_train
from comm_lopt.methods import LOCAL_LEARNING_RATE, Method

CONFIG = "experiments/quickstart.gin"
SHIPPED, FRESH = "LOptR", "LOptR_from_here"
NAME = "lopt-r-1"
GRIDS = {
    "LocalSGD": {"local_learning_rate": (0.06, 0.12, 0.24, 0.5)},
    "SlowMo": {
        "local_learning_rate": (0.15, 0.45, 1.35),
        "slow_learning_rate": (1.0, 2.0, 4.0),
        "momentum": (0.9, 0.8, 0.6),
    },
    "DiLoCo": {
        "local_learning_rate": (0.01, 0.03, 0.1),
        "learning_rate": (0.4, 0.8, 1.6),
        "momentum": (0.7, 0.4, 0.1),
    },
    "DataParallelAdam": {"learning_rate": (0.01, 0.02, 0.04, 0.08)},
}
TUNING_SEEDS = (0,)
# A core's caches hold no more.
POINTS_SIDE_BY_SIDE = 6
FINAL_SEEDS = (100, 101, 102)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out_dir", type=pathlib.Path, default=pathlib.Path("runs/quickstart"))
    parser.add_argument("--seed", type=int, default=0, help="seed of the meta-training run")
    parser.add_argument("--gin_bindings", action="append", default=[], metavar="BINDING")
    arguments = parser.parse_args()
    out_dir: pathlib.Path = arguments.out_dir.expanduser()
    with alone_in(out_dir):
        return quickstart(out_dir, arguments.seed, arguments.gin_bindings)


def quickstart(out_dir: pathlib.Path, seed: int, bindings: Sequence[str]) -> int:
    """Writes everything into `out_dir`; returns the verdict."""
    remove_earlier(out_dir)

    begin = time.perf_counter()
    comm_lopt.load_config([CONFIG], bindings)
    meta_train(out_dir / "meta_train", seed=seed)
    meta_train_seconds = time.perf_counter() - begin

    problem = meta_test.meta_test_problem()
    shipped = method_of_theta(f"{SHIPPED}={NAME}", problem)
    rate = shipped.values()[LOCAL_LEARNING_RATE]
    fresh = method_of_theta(f"{FRESH}={out_dir / 'meta_train' / 'theta'}")
    methods = [shipped, fresh.with_values("as of the other", **{LOCAL_LEARNING_RATE: rate})]

    def tune(baseline: Method) -> meta_test.SweepResult:
        grid = GRIDS[baseline.label]
        return meta_test.sweep(problem, baseline, TUNING_SEEDS, grid, POINTS_SIDE_BY_SIDE)

    def test(method: Method) -> meta_test.Curves:
        # Twenty evaluations of the weights would take longer than the training.
        return meta_test.run(problem, method, FINAL_SEEDS, evaluations="end")

    # A third of the time goes to compiling, which keeps one core busy.
    with ThreadPoolExecutor(2) as pool:
        for tuned in pool.map(tune, [meta_test.hand_designed(name) for name in GRIDS]):
            label = tuned.method.label
            print(f"tuned {label} on {len(tuned.points)} points: {tuned.best}", flush=True)
            if tuned.warning():
                print(f"warning: {tuned.warning()}", file=sys.stderr)
            methods.append(tuned.tuned("sweep of the quickstart"))
        curves = pool.map(test, methods)
        runs = {m.label: (m, found) for m, found in zip(methods, curves, strict=True)}
    results = meta_test.make_results(problem, FINAL_SEEDS, runs)
    meta_test.write_results(out_dir, results, runs)
    table, figure = comm_lopt.write_report(out_dir, results)

    seconds = time.perf_counter() - begin
    print(f"\n{table}\nfigure: {figure}")
    print(f"meta-training took {meta_train_seconds:.0f} s, all of it {seconds:.0f} s")
    tell_winners(results)
    return verdict(results)


def remove_earlier(out_dir: pathlib.Path) -> None:
    """Removes what an earlier quickstart wrote, and nothing else: the folder may be any."""
    if (out_dir / "meta_train").exists():
        shutil.rmtree(out_dir / "meta_train")
    for name in ("results.json", "curves.csv", "table.md", "loss.png"):
        (out_dir / name).unlink(missing_ok=True)


def tell_winners(results: dict[str, Any]) -> None:
    """Says which method is best by which measure."""
    finished = {n: e for n, e in results["methods"].items() if not e["diverged_seeds"]}
    measures = {
        "training loss over the local steps (the paper's measure)": lambda e: e["final_train_loss"],
        "training loss at the global weights": lambda e: e["final_loss_at_weights"],
        "held-out loss": lambda e: e["heldout"]["loss"],
    }
    for measure, value in measures.items():
        first, second = sorted(finished, key=lambda name: value(finished[name]))[:2]
        print(
            f"best by {measure}: {first} ({abs(value(finished[first])):.4g}), then {second} "
            f"({abs(value(finished[second])):.4g})"
        )


def verdict(results: dict[str, Any]) -> int:
    """Says whether the theta that ships beat tuned SlowMo; returns 0 if it did and 1 if not."""
    shipped, slowmo = (results["methods"][name] for name in (SHIPPED, "SlowMo"))
    beats = (
        not shipped["diverged_seeds"] and shipped["final_train_loss"] < slowmo["final_train_loss"]
    )
    print(
        f"{NAME} {'beats' if beats else 'does NOT beat'} tuned SlowMo: final training loss "
        f"{shipped['final_train_loss']:.4g} against {slowmo['final_train_loss']:.4g}."
    )
    return 0 if beats else 1


if __name__ == "__main__":
    sys.exit(run_command("quickstart", main))
