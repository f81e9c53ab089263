"""The quickstart: meta-trains LOpt-A on the bundled digits and compares it with tuned baselines.

Run it with `make quickstart`. It exits with 1 if LOpt-A does not beat tuned Local SGD, and after
an error as `comm-lopt` does.

Every number that is chosen stands in gin/experiments/quickstart.gin and in the registry's grids.
Baselines are tuned on TUNING_SEEDS; the comparison uses FINAL_SEEDS, which no tuning has seen.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

import comm_lopt
from comm_lopt import meta_test
from comm_lopt.cli.exit_codes import run_command
from comm_lopt.cli.method_specs import method_of_theta
from comm_lopt.meta_test.results import alone_in
from comm_lopt.meta_train import meta_train

CONFIG = "experiments/quickstart.gin"
BASELINES = (
    "LocalSGD", "SlowMo", "DiLoCo", "DataParallelSGD", "DataParallelAdam", "DiLoCoK1",
)  # fmt: skip
TUNING_SEEDS = (0, 1, 2)
FINAL_SEEDS = (100, 101, 102, 103, 104)
MOST_ROUNDS = 0.8


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
    methods = [method_of_theta(str(out_dir / "meta_train" / "theta"))]
    for name in BASELINES:
        tuned = meta_test.sweep(problem, meta_test.hand_designed(name), TUNING_SEEDS)
        print(f"tuned {name} on {len(tuned.points)} points: {tuned.best}", flush=True)
        if tuned.warning():
            print(f"warning: {tuned.warning()}", file=sys.stderr)
        methods.append(tuned.tuned("sweep of the quickstart"))
    runs = {m.label: (m, meta_test.run(problem, m, FINAL_SEEDS)) for m in methods}
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
        "held-out accuracy": lambda e: -e["heldout"]["accuracy"],
    }
    for measure, value in measures.items():
        first, second = sorted(finished, key=lambda name: value(finished[name]))[:2]
        print(
            f"best by {measure}: {first} ({abs(value(finished[first])):.4g}), then {second} "
            f"({abs(value(finished[second])):.4g})"
        )


def verdict(results: dict[str, Any]) -> int:
    """Says whether LOpt-A beat tuned Local SGD; returns 0 if it did and 1 if not."""
    lopt_a, local_sgd = (results["methods"][name] for name in ("LOptA", "LocalSGD"))
    rounds = lopt_a["rounds_to"]["final_loss_of_LocalSGD"]
    most = int(MOST_ROUNDS * results["problem"]["num_rounds"])
    lower = (
        not lopt_a["diverged_seeds"] and lopt_a["final_train_loss"] < local_sgd["final_train_loss"]
    )
    early = rounds is not None and rounds <= most
    print(
        f"LOptA {'beats' if lower and early else 'does NOT beat'} tuned LocalSGD: final training "
        f"loss {lopt_a['final_train_loss']:.4g} against {local_sgd['final_train_loss']:.4g}; "
        f"reaches the latter after {rounds} of {results['problem']['num_rounds']} rounds (at most "
        f"{most})."
    )
    return 0 if lower and early else 1


if __name__ == "__main__":
    sys.exit(run_command("quickstart", main))
