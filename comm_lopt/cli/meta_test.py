"""The command `comm-lopt meta-test`: trains a task with several methods and compares them."""

from __future__ import annotations

import argparse
from typing import Any

import comm_lopt
from comm_lopt import meta_test
from comm_lopt.cli.flags import (
    add_config_flags,
    add_parser,
    add_seed_and_out_flags,
    load_config_of,
    number,
)
from comm_lopt.cli.method_specs import (
    key_value,
    method_of_spec,
    method_of_sweep,
    method_of_theta,
)
from comm_lopt.meta_test.collections import read_collection
from comm_lopt.meta_test.results import claim_out_dir
from comm_lopt.meta_test.runs import Curves
from comm_lopt.methods import Method, checked_name
from comm_lopt.report.page import leave_page
from comm_lopt.report.results_page import results_page

__all__ = ["add_meta_test"]


def add_meta_test(commands: Any) -> None:
    """Adds the command and its flags."""
    parser = add_parser(
        commands, "meta-test", _meta_test, "train a task with several methods and compare them"
    )
    add_config_flags(parser)
    parser.add_argument(
        "--theta",
        action="append",
        default=[],
        metavar="[LABEL=]DIR[:KEY=X,...]",
        help="a learned optimizer: folder with theta.safetensors, or a name of `comm-lopt "
        "pretrained`; repeatable. The local learning rate is the one that its card recommends, or "
        "that it was meta-trained with, unless given",
    )
    parser.add_argument(
        "--optimizer",
        action="append",
        default=[],
        metavar="[LABEL=]NAME[:KEY=X,...]",
        help="a hand-designed optimizer with hyperparameters, those of the local optimizer behind "
        "local_ and itself as local_opt=NAME; NAME is of `comm-lopt optimizers`, optax.NAME, or "
        "your own in gin; repeatable",
    )
    parser.add_argument(
        "--tuned",
        action="append",
        default=[],
        metavar="[LABEL=]DIR",
        help="the best point of a sweep, by the sweep's --out_dir; repeatable",
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME=LOSS",
        help="also count the rounds to this training loss; repeatable",
    )
    add_seed_and_out_flags(parser, "100,101,102,103,104", "results.json, curves.csv, ...")


def _meta_test(arguments: argparse.Namespace) -> None:
    folder = claim_out_dir(arguments.out_dir)
    load_config_of(arguments)
    problem = meta_test.meta_test_problem()
    if problem.part_sizes() is not None:
        print(f"training examples of each worker: {problem.part_sizes()}")
    methods = [method_of_theta(spec, problem) for spec in arguments.theta]
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
        checked_name(name): number(name, loss) for name, loss in map(key_value, arguments.target)
    }
    for method in methods:
        method.check(problem)
    runs: dict[str, tuple[Method, Curves]] = {}
    try:
        for method in methods:
            runs[method.label] = (method, meta_test.run(problem, method, arguments.seeds))
    finally:
        # Also where a later method fails: what has run is not lost.
        if runs:
            results = meta_test.make_results(problem, arguments.seeds, runs, targets)
            meta_test.write_results(folder, results, runs)
    table, figure = comm_lopt.write_report(folder, results)
    only = read_collection([folder])
    page = leave_page(folder, lambda: results_page(only))
    print(table)
    print(f"figure: {figure}" + (f"\npage: {page}" if page else ""))
