"""Flags that several commands have, and what becomes of them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from comm_lopt.config import load_config

__all__ = [
    "add_config_flags",
    "add_debug_flag",
    "add_folder_flag",
    "add_parser",
    "add_seed_and_out_flags",
    "config_flags_of",
    "load_config_of",
    "number",
]


def add_parser(
    commands: Any, name: str, function: Callable[[argparse.Namespace], None], summary: str
) -> argparse.ArgumentParser:
    """Adds a command that calls `function`; returns its parser, for its flags."""
    parser = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
    parser.set_defaults(function=function)
    add_debug_flag(parser)
    return parser


def add_debug_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --debug, which may stand before the command or after it."""
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,  # What stands before the command is kept.
        help="show the traceback of an error",
    )


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Adds upstream's flags of gin files and bindings."""
    parser.add_argument(
        "--config_file",
        action="append",
        type=os.path.expanduser,
        default=[],
        metavar="FILE",
        required=True,
        help="gin file: the name of one that ships (see `comm-lopt tasks`), or a path; your own "
        "file of such a name is ./NAME; repeatable",
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
        help="module with your own configurables, installed or in the current folder, imported "
        "first; repeatable",
    )


def add_folder_flag(parser: argparse.ArgumentParser, flag: str, files: str) -> None:
    """Adds a flag, which must be given, of the folder for or of `files`."""
    parser.add_argument(
        flag, required=True, type=os.path.expanduser, metavar="DIR", help=f"folder {files}"
    )


def config_flags_of(arguments: argparse.Namespace) -> list[str]:
    """The flags of `add_config_flags` as they were given, for another command."""
    names = ("config_file", "gin_bindings", "gin_import")
    return [
        part
        for name in names
        for value in getattr(arguments, name)
        for part in (f"--{name}", value)
    ]


def load_config_of(arguments: argparse.Namespace) -> None:
    """Loads what the flags of `add_config_flags` say; finds modules as `python -m` does."""
    here = os.getcwd()
    if not sys.flags.safe_path and not {"", here} & set(sys.path):
        sys.path.insert(0, here)
    load_config(arguments.config_file, arguments.gin_bindings, arguments.gin_import)


def add_seed_and_out_flags(parser: argparse.ArgumentParser, seeds: str, files: str) -> None:
    """Adds the flags of seeds, with a default, and of the folder for `files`."""
    parser.add_argument(
        "--seeds",
        type=_seeds,
        default=_seeds(seeds),
        metavar="A,B,...",
        help=f"seeds of initial weights and data order (default: {seeds})",
    )
    add_folder_flag(parser, "--out_dir", f"for {files}")


def number(key: str, text: str) -> float:
    """The value in KEY=TEXT.

    Raises:
      ValueError: it is no number.
    """
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{key}={text!r} is not a number; write for example {key}=0.5.") from None


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 0,1,2") from None
