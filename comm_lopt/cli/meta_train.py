"""The command `comm-lopt meta-train`: learns theta from tasks."""

from __future__ import annotations

import argparse
import os
import pathlib
from typing import Any

import jax

from comm_lopt import meta_train
from comm_lopt.cli.flags import (
    add_config_flags,
    add_folder_flag,
    add_parser,
    config_flags_of,
    load_config_of,
)
from comm_lopt.cli.several_processes import add_process_flags, joined_as_told
from comm_lopt.processes import together
from comm_lopt.report.page import leave_page
from comm_lopt.report.run_page import run_page

__all__ = ["add_meta_train"]


def add_meta_train(commands: Any) -> None:
    """Adds the command and its flags."""
    parser = add_parser(commands, "meta-train", _meta_train, "learn theta from tasks")
    add_config_flags(parser)
    add_folder_flag(
        parser,
        "--train_log_dir",
        "for theta/, best_theta/, checkpoints/, metrics.csv, validation.csv, skipped.csv, "
        "TensorBoard events, config.gin and meta_train.png",
    )
    parser.add_argument(
        "--init_theta",
        type=os.path.expanduser,
        metavar="DIR",
        help="start from this theta, of the same rule and sizes, in place of a random one; or the "
        "name of one that ships",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the run (default: 0)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in the folder, if there is a run",
    )
    parser.add_argument("--no_progress", action="store_true", help="do not tell how far it is")
    add_process_flags(parser)


def _meta_train(arguments: argparse.Namespace) -> None:
    with joined_as_told(arguments):
        _in_all(arguments)


def _in_all(arguments: argparse.Namespace) -> None:
    """What each process does."""
    with together():
        load_config_of(arguments)
    meta_train.meta_train(
        arguments.train_log_dir,
        seed=arguments.seed,
        resume=arguments.resume,
        progress=not arguments.no_progress,
        init_theta=arguments.init_theta,
    )
    if jax.process_index():
        return
    folder = pathlib.Path(arguments.train_log_dir)
    leave_page(folder, lambda: run_page(folder))
    print("\n".join(meta_train.closing(folder, config_flags_of(arguments))))
