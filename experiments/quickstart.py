"""The quickstart: meta-trains LOpt-A on the bundled digits and compares it with tuned baselines.

Run it with `make quickstart`. It exits with 1 if LOpt-A does not beat tuned Local SGD.

Every number that is chosen stands in gin/experiments/quickstart.gin and in the registry's grids.
Baselines are tuned on TUNING_SEEDS; the comparison uses FINAL_SEEDS, which no tuning has seen.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import sys
import time
from typing import Any

import comm_lopt
from comm_lopt import meta_test
from comm_lopt.meta_train import meta_train

CONFIG = "experiments/quickstart.gin"
BASELINES = ("LocalSGD", "SlowMo", "DataParallelSGD", "DataParallelAdam")
TUNING_SEEDS = (0, 1, 2)
FINAL_SEEDS = (100, 101, 102, 103, 104)
MOST_ROUNDS = 0.8


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out_dir", type=pathlib.Path, default=pathlib.Path("runs/quickstart"))
    parser.add_argument("--seed", type=int, default=0, help="seed of the meta-training run")
    parser.add_argument("--gin_bindings", action="append", default=[], metavar="BINDING")
    arguments = parser.parse_args()
    out_dir: pathlib.Path = arguments.out_dir
    # The quickstart is for running again and again: it replaces what it wrote before.
    shutil.rmtree(out_dir, ignore_errors=True)

    begin = time.perf_counter()
    comm_lopt.load_config([CONFIG], arguments.gin_bindings)
    learned_opt, theta = meta_train(out_dir / "meta_train", seed=arguments.seed)
    meta_train_seconds = time.perf_counter() - begin

    _, _, trained_on = comm_lopt.load_theta(out_dir / "meta_train" / "theta")
    problem = meta_test.meta_test_problem()
    candidates = [meta_test.learned(learned_opt, theta, trained_on["local_learning_rate"])]
    for name in BASELINES:
        tuned = meta_test.sweep(problem, meta_test.baseline(name), TUNING_SEEDS)
        print(f"tuned {name} on {len(tuned.points)} points: {tuned.best}")
        candidates.append(meta_test.baseline(name, **tuned.best))
    runs = {c.name: (c, meta_test.run(problem, c, FINAL_SEEDS)) for c in candidates}
    results = meta_test.make_results(problem, FINAL_SEEDS, runs)
    meta_test.write_results(out_dir, results, runs)
    table, figure = comm_lopt.write_report(out_dir, results)

    seconds = time.perf_counter() - begin
    print(f"\n{table}\nfigure: {figure}")
    print(f"meta-training took {meta_train_seconds:.0f} s, all of it {seconds:.0f} s")
    return verdict(results)


def verdict(results: dict[str, Any]) -> int:
    """Says whether LOpt-A beat tuned Local SGD; returns 0 if it did and 1 if not."""
    lopt_a, local_sgd = (results["optimizers"][name] for name in ("LOptA", "LocalSGD"))
    rounds = lopt_a["rounds_to"]["final_loss_of_LocalSGD"]
    most = int(MOST_ROUNDS * results["num_rounds"])
    lower = (
        not lopt_a["diverged_seeds"] and lopt_a["final_train_loss"] < local_sgd["final_train_loss"]
    )
    early = rounds is not None and rounds <= most
    print(
        f"LOptA {'beats' if lower and early else 'does NOT beat'} tuned LocalSGD: final training "
        f"loss {lopt_a['final_train_loss']:.4g} against {local_sgd['final_train_loss']:.4g}; "
        f"reaches the latter after {rounds} of {results['num_rounds']} rounds (at most {most})."
    )
    return 0 if lower and early else 1


if __name__ == "__main__":
    sys.exit(main())
