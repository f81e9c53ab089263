"""The command `comm-lopt sweep`: tunes an optimizer on a grid, in one program."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from comm_lopt import meta_test
from comm_lopt.atomic import replacing
from comm_lopt.cli.flags import (
    add_config_flags,
    add_parser,
    add_seed_and_out_flags,
    load_config_of,
    number,
)
from comm_lopt.cli.method_specs import SWEEP_FILE, key_value, method_of_spec, method_of_theta
from comm_lopt.meta_test.results import claim_out_dir
from comm_lopt.report.page import leave_page
from comm_lopt.report.sweep_page import sweep_page

__all__ = ["add_sweep"]


def add_sweep(commands: Any) -> None:
    """Adds the command and its flags."""
    parser = add_parser(commands, "sweep", _sweep, "tune an optimizer on a grid, in one program")
    add_config_flags(parser)
    parser.add_argument(
        "--optimizer",
        metavar="[LABEL=]NAME[:KEY=X,...]",
        help="a hand-designed optimizer; what is given here is not tuned",
    )
    parser.add_argument(
        "--theta",
        metavar="[LABEL=]DIR[:KEY=X,...]",
        help="a learned optimizer, as for meta-test, to tune its local learning rate",
    )
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="KEY=X,Y,...",
        help="values of a hyperparameter, in place of those of `comm-lopt optimizers`; repeatable",
    )
    parser.add_argument(
        "--grid_batch_size",
        type=int,
        metavar="N",
        help="grid points side by side; fewer need less memory (default: all)",
    )
    add_seed_and_out_flags(parser, "0,1,2", SWEEP_FILE)


def _sweep(arguments: argparse.Namespace) -> None:
    folder = claim_out_dir(arguments.out_dir, SWEEP_FILE)
    if (arguments.optimizer is None) == (arguments.theta is None):
        raise ValueError("give one of --optimizer and --theta.")
    load_config_of(arguments)
    problem = meta_test.meta_test_problem()
    if arguments.theta:
        method = method_of_theta(arguments.theta, problem)
    else:
        method = method_of_spec(arguments.optimizer)
    grid = {
        key: [number(key, value) for value in values.split(",")]
        for key, values in map(key_value, arguments.grid)
    }
    result = meta_test.sweep(problem, method, arguments.seeds, grid, arguments.grid_batch_size)
    with replacing(folder / SWEEP_FILE) as file:
        file.write_text(json.dumps(result.to_json(), indent=2), encoding="utf-8")
    leave_page(folder, lambda: sweep_page(result.to_json()))
    best = ", ".join(f"{name}={value:g}" for name, value in result.best.items())
    print(
        f"{method.label}: {len(result.points)} points x {len(result.seeds)} seeds; best "
        f"{best or 'of one'}, final train loss {result.final_train_loss[result.best_index]:.4g}"
    )
    if result.warning():
        print(f"warning: {result.warning()}", file=sys.stderr)
