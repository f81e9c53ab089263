"""The command `comm-lopt data`: lists the sources of data, and prepares them."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from comm_lopt.checks import require_choice
from comm_lopt.cli.flags import add_debug_flag, add_parser
from comm_lopt.data.sources.folder import DATA_VARIABLE, DataError, data_folder
from comm_lopt.data.sources.registry import PREPARED, SOURCES
from comm_lopt.data.sources.tfds_source import Progress, fashion_mnist_to_tfds, prepare_from_tfds

__all__ = ["add_data"]

_WIDTH = 40  # of the line of progress, so that a shorter one covers a longer one


def add_data(commands: Any) -> None:
    """Adds the command, which goes on with nothing, or with `prepare NAME` and its flags."""
    parser = add_parser(commands, "data", _data, "list the sources of data, or prepare one")
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    prepare = actions.add_parser(
        "prepare",
        help="bring a data set of TensorFlow Datasets to comm_lopt, downloading it if need be",
        description="Brings a data set of TensorFlow Datasets into $COMM_LOPT_DATA, downloading "
        'it if need be. Needs pip install "comm-lopt[tfds]"; using the data afterwards does not.',
    )
    add_debug_flag(prepare)
    prepare.add_argument("name", metavar="NAME", help=f"one of {', '.join(PREPARED)}")
    prepare.add_argument(
        "--from_dir",
        type=os.path.expanduser,
        metavar="DIR",
        help="fashion_mnist only: make TFDS's own data set out of the IDX files in this folder, "
        "offline, so that upstream's tasks find it",
    )
    prepare.add_argument(
        "--tfds_dir",
        type=os.path.expanduser,
        metavar="DIR",
        help="folder of TFDS's data sets (default: TFDS's own)",
    )


def _data(arguments: argparse.Namespace) -> None:
    if arguments.action == "prepare":
        _prepare(arguments)
    else:
        _list()


def _list() -> None:
    for name, entry in SOURCES.items():
        try:
            where = f"yours: bind {entry.yours}" if entry.yours else f"here: {entry.find()}"
        except FileNotFoundError as error:
            where = f"not here: {error}"
        except DataError as error:
            where = f"damaged: {error}"
        print(f"{name:<14} {entry.summary}\n{'':<14} gin: {entry.configurable}\n{'':<14} {where}")
    print(f"\n{DATA_VARIABLE} is {data_folder()}")


def _prepare(arguments: argparse.Namespace) -> None:
    require_choice("data set", arguments.name, PREPARED)
    if arguments.from_dir is None:
        with _progress() as show:
            folder = prepare_from_tfds(arguments.name, arguments.tfds_dir, show)
        print(f"{arguments.name} is in {folder}")
        return
    if arguments.name != "fashion_mnist":
        raise ValueError(
            f"--from_dir with {arguments.name}: only fashion_mnist is made from IDX files; leave "
            "--from_dir out."
        )
    folder = fashion_mnist_to_tfds(arguments.from_dir, arguments.tfds_dir)
    print(f"TFDS's fashion_mnist is in {folder}")


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Gives a function that keeps one line of standard error up to date."""
    shown = False

    def show(split: str, rows: int) -> None:
        nonlocal shown
        shown = True
        print(f"\r{f'{split}: {rows:,} rows':<{_WIDTH}}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if shown:
            print(file=sys.stderr)
