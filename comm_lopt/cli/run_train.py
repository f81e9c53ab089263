"""The commands `comm-lopt run-train` and `convert`: upstream's own trainer on our gin files."""

from __future__ import annotations

import argparse
from typing import Any

from comm_lopt import upstream
from comm_lopt.cli.flags import add_config_flags, add_folder_flag, add_parser, load_config_of
from comm_lopt.meta_train.convert import convert_params

__all__ = ["add_convert", "add_run_train"]

_CONFIG = "config.gin"


def add_run_train(commands: Any) -> None:
    """Adds `comm-lopt run-train`."""
    parser = add_parser(
        commands, "run-train", _run_train, "run upstream's own trainer on the same gin files"
    )
    add_config_flags(parser)
    add_folder_flag(parser, "--train_log_dir", "for params_*, checkpoint_*, events and config.gin")


def add_convert(commands: Any) -> None:
    """Adds `comm-lopt convert`."""
    parser = add_parser(
        commands,
        "convert",
        _convert,
        "make a theta of the newest params_* of upstream's trainer, given its gin files or the "
        "config.gin that it wrote",
    )
    add_config_flags(parser)
    add_folder_flag(parser, "--train_log_dir", "of upstream's run_train")
    add_folder_flag(parser, "--out_dir", "for theta.safetensors")


def _run_train(arguments: argparse.Namespace) -> None:
    load_config_of(arguments)
    upstream.run_train(arguments.train_log_dir)
    folder = arguments.train_log_dir
    print(
        f"params_* are in {folder}; `comm-lopt convert --config_file {folder}/{_CONFIG} "
        f"--train_log_dir {folder} --out_dir {folder}/theta` makes a theta of them"
    )


def _convert(arguments: argparse.Namespace) -> None:
    load_config_of(arguments)
    convert_params(arguments.train_log_dir, arguments.out_dir)
    print(f"theta is in {arguments.out_dir}")
