"""The paper's claims and ours, at a size for two CPU cores or the paper's: one experiment a folder.

python experiments/reproduction/run.py --out_dir DIR [--experiments a,b] [--size paper]

Meta-trains the thetas that an experiment names, tunes its baselines, tests all, and writes
results.json, table.md and loss.png for each experiment. What is done is not done again; a run that
was killed goes on, in the middle of a meta-training too.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

import jax
from tuned import collected, compared, figure, table, write_results

from comm_lopt.atomic import BusyError
from comm_lopt.cli.exit_codes import run_command
from comm_lopt.meta_train import meta_train
from comm_lopt.versions import versions
from experiments import (
    SIZES,
    Experiment,
    Recipe,
    experiment_names,
    read_experiment,
    read_recipes,
)

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out_dir", type=pathlib.Path, required=True)
    parser.add_argument(
        "--experiments",
        type=lambda text: text.split(","),
        default=experiment_names(),
        metavar="A,B,...",
        help=f"of {', '.join(experiment_names())} (default: all)",
    )
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="cpu",
        help="two CPU cores and 8×8 images, or that of the paper, for a GPU (default: cpu)",
    )
    flags = parser.parse_args(arguments)
    return run_command(
        "reproduction", lambda: _all(flags.out_dir.expanduser(), flags.experiments, flags.size)
    )


def _all(out_dir: pathlib.Path, names: Sequence[str], size: str) -> int:
    if jax.config.jax_compilation_cache_dir is None:
        # Problems that differ in a number alone have the same programs.
        jax.config.update("jax_compilation_cache_dir", str(out_dir / "programs"))
    experiments = [read_experiment(name, size) for name in names]
    specs = dict.fromkeys(
        spec for one in experiments for problem in one.problems for spec in problem.thetas
    )
    methods = with_thetas(out_dir / "thetas", specs, read_recipes(size))
    failed = [what for one in experiments for what in done(out_dir / one.name, one, methods)]
    return 1 if failed else 0


def done(folder: pathlib.Path, experiment: Experiment, methods: Mapping[str, str]) -> list[str]:
    """Does what is missing of an experiment, and writes its summary.

    Args:
      folder: of its results.
      experiment: what is compared on what.
      methods: of `with_thetas`.

    Returns:
      What could not be done.
    """
    failed = []
    for problem in experiment.problems:
        thetas = [methods[spec] for spec in problem.thetas]
        failed += compared(folder / problem.name, problem, problem.baselines, thetas)
    problems = collected(folder, experiment.problems)
    if problems:
        summary = {
            "format_version": 1,
            "problems": problems,
            "verdicts": {},
            "rate_spreads": [],
            "versions": versions(),
        }
        told = table(summary, experiment.title, experiment.claim)
        drawn = tuple(problems)[:6]
        write_results(folder, summary, told, lambda: figure(problems, drawn), "loss.png")
    return failed


def with_thetas(
    folder: pathlib.Path, specs: Iterable[str], recipes: Mapping[str, Recipe]
) -> dict[str, str]:
    """Methods of meta-test, NAME=FOLDER:KEY=X,..., by the specs of thetas.

    A theta is meta-trained if need be, once for all specs that name it.

    Args:
      folder: of all thetas.
      specs: names of thetas, with values behind a colon; one that ships stays as it is.
      recipes: of those that are meta-trained.
    """
    methods, trained = {}, set()
    for spec in specs:
        label, _, told = spec.partition("=") if "=" in spec.partition(":")[0] else ("", "", spec)
        name, colon, values = told.partition(":")
        if name not in recipes:
            methods[spec] = spec
            continue
        if name not in trained:
            _meta_train(folder / name, recipes[name])
            trained.add(name)
        methods[spec] = f"{label or name}={folder / name / 'theta'}{colon}{values}"
    return methods


def _meta_train(folder: pathlib.Path, recipe: Recipe) -> None:
    recipe.load()
    begin = time.monotonic()
    try:
        meta_train(folder, seed=0, resume=True, progress=False, validation_every=0)
    except BusyError:
        raise ValueError(
            f"another process meta-trains {folder.name}; wait until it has ended."
        ) from None
    print(f"{folder.name}: meta-trained, {time.monotonic() - begin:.0f} s", flush=True)
    jax.clear_caches()


if __name__ == "__main__":
    sys.exit(main())
