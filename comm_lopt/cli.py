"""The command line: `comm-lopt meta-train | meta-test | sweep | tasks | optimizers | data`."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import comm_lopt
from comm_lopt import meta_test, meta_train
from comm_lopt.atomic import replacing
from comm_lopt.cli_data import add_data_flags, run_data
from comm_lopt.cli_methods import (
    SWEEP_FILE,
    key_value,
    method_of_spec,
    method_of_sweep,
    method_of_theta,
)
from comm_lopt.config import load_config, shipped_gin_files
from comm_lopt.meta_test.results import claim_out_dir
from comm_lopt.methods import checked_name, hand_designed

__all__ = ["main"]

_ERRORS = (ValueError, TypeError, OSError, ImportError, meta_train.DivergedError)

_EPILOG = """\
examples:
  comm-lopt meta-train --config_file experiments/quickstart.gin --train_log_dir runs/lopt_a
  comm-lopt sweep --config_file tasks/digits_mlp.gin --optimizer SlowMo --out_dir runs/slowmo
  comm-lopt meta-test --config_file tasks/digits_mlp.gin --theta runs/lopt_a/theta \\
      --optimizer LocalSGD:local_learning_rate=1 --tuned runs/slowmo --out_dir runs/comparison
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status.

    It is 0, or 2 after an error, which is printed, or 128 and the number of the signal after
    which meta-training stopped with all its work saved: 143 for SIGTERM, 130 for Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.function(arguments)
    except meta_train.RunStopped as stopped:
        return _tell(arguments.command, stopped, stopped.exit_status)
    except _ERRORS as error:
        if arguments.debug:
            raise
        return _tell(arguments.command, error, 2)
    return 0


def _tell(command: str, error: Exception, exit_status: int) -> int:
    """Prints an error without the Python functions that gin adds to its message."""
    message = str(error).split("\n  In call to configurable")[0]
    print(f"comm-lopt {command}: {message}", file=sys.stderr)
    return exit_status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="comm-lopt",
        description="Meta-train optimizers for the global step of local SGD, and compare them "
        "with tuned baselines at equal communication.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    training = _command(commands, "meta-train", _meta_train, "learn theta from tasks")
    _config_flags(training)
    training.add_argument(
        "--train_log_dir",
        required=True,
        type=os.path.expanduser,
        metavar="DIR",
        help="folder for theta/, best_theta/, checkpoints/, metrics.csv, skipped.csv, TensorBoard "
        "events and config.gin",
    )
    training.add_argument("--seed", type=int, default=0, help="seed of the run (default: 0)")
    training.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in the folder, if there is a run",
    )
    training.add_argument("--no_progress", action="store_true", help="show no progress bar")

    testing = _command(
        commands, "meta-test", _meta_test, "train a task with several methods and compare them"
    )
    _config_flags(testing)
    testing.add_argument(
        "--theta",
        action="append",
        default=[],
        metavar="[LABEL=]DIR[:KEY=X,...]",
        help="a learned optimizer: folder with theta.safetensors; repeatable. The local learning "
        "rate is the one it was meta-trained with unless given",
    )
    testing.add_argument(
        "--optimizer",
        action="append",
        default=[],
        metavar="[LABEL=]NAME[:KEY=X,...]",
        help="a hand-designed optimizer with hyperparameters, those of the local optimizer behind "
        "local_ and itself as local_opt=NAME; NAME is of `comm-lopt optimizers`, optax.NAME, or "
        "your own in gin; repeatable",
    )
    testing.add_argument(
        "--tuned",
        action="append",
        default=[],
        metavar="[LABEL=]DIR",
        help="the best point of a sweep, by the sweep's --out_dir; repeatable",
    )
    testing.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME=LOSS",
        help="also count the rounds to this training loss; repeatable",
    )
    _seed_and_out_flags(testing, "100,101,102,103,104", "results.json, curves.csv, ...")

    sweeping = _command(commands, "sweep", _sweep, "tune an optimizer on a grid, in one program")
    _config_flags(sweeping)
    sweeping.add_argument(
        "--optimizer",
        metavar="[LABEL=]NAME[:KEY=X,...]",
        help="a hand-designed optimizer; what is given here is not tuned",
    )
    sweeping.add_argument(
        "--theta",
        metavar="[LABEL=]DIR[:KEY=X,...]",
        help="a learned optimizer, to tune its local learning rate",
    )
    sweeping.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="KEY=X,Y,...",
        help="values of a hyperparameter, in place of those of `comm-lopt optimizers`; repeatable",
    )
    sweeping.add_argument(
        "--grid_batch_size",
        type=int,
        metavar="N",
        help="grid points side by side; fewer need less memory (default: all)",
    )
    _seed_and_out_flags(sweeping, "0,1,2", SWEEP_FILE)

    _command(commands, "tasks", _tasks, "list the tasks and the gin files that ship")
    _command(commands, "optimizers", _optimizers, "list the global optimizers")
    data = _command(commands, "data", run_data, "list the sources of data, or prepare one")
    add_data_flags(data)
    return parser


def _command(commands: Any, name: str, function: Any, summary: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
    parser.set_defaults(function=function)
    return parser


def _config_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config_file",
        action="append",
        type=os.path.expanduser,
        default=[],
        metavar="FILE",
        required=True,
        help="gin file: a path, or the name of one that ships (see `comm-lopt tasks`); repeatable",
    )
    parser.add_argument(
        "--gin_bindings",
        action="append",
        default=[],
        metavar="BINDING",
        help="such as 'num_workers = 16'; wins over the files; repeatable",
    )
    parser.add_argument(
        "--gin_import",
        action="append",
        default=[],
        metavar="MODULE",
        help="module with your own configurables, imported first; repeatable",
    )


def _seed_and_out_flags(parser: argparse.ArgumentParser, seeds: str, files: str) -> None:
    parser.add_argument(
        "--seeds",
        type=_seeds,
        default=_seeds(seeds),
        metavar="A,B,...",
        help=f"seeds of initial weights and data order (default: {seeds})",
    )
    parser.add_argument(
        "--out_dir",
        required=True,
        type=os.path.expanduser,
        metavar="DIR",
        help=f"folder for {files}",
    )


def _meta_train(arguments: argparse.Namespace) -> None:
    _load_config(arguments)
    meta_train.meta_train(
        arguments.train_log_dir,
        seed=arguments.seed,
        resume=arguments.resume,
        progress=not arguments.no_progress,
    )
    print(f"theta is in {pathlib.Path(arguments.train_log_dir) / 'theta'}")


def _meta_test(arguments: argparse.Namespace) -> None:
    folder = claim_out_dir(arguments.out_dir)
    _load_config(arguments)
    problem = meta_test.meta_test_problem()
    if problem.part_sizes() is not None:
        print(f"training examples of each worker: {problem.part_sizes()}")
    methods = [method_of_theta(spec) for spec in arguments.theta]
    methods += [method_of_sweep(spec, problem, arguments.seeds) for spec in arguments.tuned]
    methods += [method_of_spec(spec) for spec in arguments.optimizer]
    labels = [method.label for method in methods]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if not methods or twice:
        raise ValueError(
            f"{twice} is given twice; give each a label of its own, as in {twice}2=..."
            if twice
            else "nothing to compare; give --theta, --tuned or --optimizer at least once."
        )
    targets = {
        checked_name(name): _number(name, loss) for name, loss in map(key_value, arguments.target)
    }
    for method in methods:
        method.check(problem)
    runs = {m.label: (m, meta_test.run(problem, m, arguments.seeds)) for m in methods}
    results = meta_test.make_results(problem, arguments.seeds, runs, targets)
    meta_test.write_results(folder, results, runs)
    table, figure = comm_lopt.write_report(folder, results)
    print(table)
    print(f"figure: {figure}")


def _sweep(arguments: argparse.Namespace) -> None:
    folder = claim_out_dir(arguments.out_dir, SWEEP_FILE)
    if (arguments.optimizer is None) == (arguments.theta is None):
        raise ValueError("give one of --optimizer and --theta.")
    _load_config(arguments)
    problem = meta_test.meta_test_problem()
    if arguments.theta:
        method = method_of_theta(arguments.theta)
    else:
        method = method_of_spec(arguments.optimizer)
    grid = {
        key: [_number(key, value) for value in values.split(",")]
        for key, values in map(key_value, arguments.grid)
    }
    result = meta_test.sweep(problem, method, arguments.seeds, grid, arguments.grid_batch_size)
    with replacing(folder / SWEEP_FILE) as file:
        file.write_text(json.dumps(result.to_json(), indent=2), encoding="utf-8")
    best = ", ".join(f"{name}={value:g}" for name, value in result.best.items())
    print(
        f"{method.label}: {len(result.points)} points x {len(result.seeds)} seeds; best "
        f"{best or 'of one'}, final train loss {result.final_train_loss[result.best_index]:.4g}"
    )
    if result.warning():
        print(f"warning: {result.warning()}", file=sys.stderr)


def _tasks(arguments: argparse.Namespace) -> None:
    del arguments
    columns = "{:<22} {:<22} {:>11}  {:<54} {}"
    print(columns.format("task", "data", "parameters", "network", "in the paper"))
    for name, entry in comm_lopt.TASKS.items():
        size = f"{entry.num_parameters:,}"
        print(columns.format(name, entry.data, size, entry.summary, entry.paper).rstrip())
    print("\ngin files (for --config_file and include):")
    for file in shipped_gin_files():
        print(f"  {file}")


def _optimizers(arguments: argparse.Namespace) -> None:
    del arguments
    sent = {"mean": "delta", "worker_deltas": "delta to all", "gradient": "a gradient"}
    columns = "{:<18} {:<13} {:<12} {:<24} {}"
    print(columns.format("optimizer", "workers send", "local steps", "source", ""))
    for name, entry in comm_lopt.OPTIMIZERS.items():
        local = {"gradient": "none"}.get(entry.sends, entry.local_opt)
        print(columns.format(name, sent[entry.sends], local, entry.source, entry.summary))
        grid = {} if entry.is_learned else hand_designed(name).grid
        for key, values in grid.items():
            print(f"{'':<18}   {key}: {', '.join(f'{value:g}' for value in values)}")
    print("\nand optax.NAME, and what your own modules register with gin (--gin_import).")


def _load_config(arguments: argparse.Namespace) -> None:
    load_config(arguments.config_file, arguments.gin_bindings, arguments.gin_import)


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{key}={text!r} is not a number; write for example {key}=0.5.") from None


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 0,1,2") from None


if __name__ == "__main__":
    sys.exit(main())
