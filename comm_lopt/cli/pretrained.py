"""The command `comm-lopt pretrained`: lists the thetas that ship, shows a card, copies one."""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
from typing import Any

from comm_lopt.cli.flags import add_parser
from comm_lopt.meta_test.results import claim_out_dir
from comm_lopt.pretrained.card import read_card
from comm_lopt.pretrained.folders import CARD_FILE, CONFIG_FILE, README_FILE, shipped
from comm_lopt.pretrained.loading import load
from comm_lopt.pretrained.model_card import body
from comm_lopt.theta import FILE_NAME

__all__ = ["add_pretrained"]

_FILES = (FILE_NAME, CARD_FILE, CONFIG_FILE, README_FILE)


def add_pretrained(commands: Any) -> None:
    """Adds the command and its flags."""
    parser = add_parser(
        commands, "pretrained", _pretrained, "list the thetas that ship, show a card, or copy one"
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="show its card; or a folder")
    parser.add_argument(
        "--out_dir",
        type=os.path.expanduser,
        default=argparse.SUPPRESS,  # No folder is made where none is wanted.
        metavar="DIR",
        help="copy it here, with its card, in place of showing it",
    )


def _pretrained(arguments: argparse.Namespace) -> None:
    copies = "out_dir" in arguments
    if arguments.name is None:
        if copies:
            raise ValueError("--out_dir is for one theta; give its name as well.")
        _list()
        return
    found = load(arguments.name)
    if found.card is None:
        raise ValueError(f"{found.file['path']} has no card; `comm-lopt pretrained` lists some.")
    if copies:
        _copy(pathlib.Path(found.file["path"]).parent, arguments.out_dir)
        print(f"{found.name} is in {arguments.out_dir}")
    else:
        print(body(found.card), end="")


def _list() -> None:
    columns = "{:<14} {:<8} {:>8}  {:<14} {}"
    print(columns.format("name", "rule", "weights", "γ", "meta-trained on"))
    for folder in shipped().values():
        card = read_card(folder)
        rate = f"{card.recommended.local_learning_rate:g}"
        rate += " (steered)" if card.recommended.steered else ""
        tasks = "; ".join(card.training.tasks)
        print(columns.format(card.name, card.rule, f"{card.num_weights:,}", rate, tasks))
    print("\nand any folder or file of your own, wherever a theta is given.")


def _copy(folder: pathlib.Path, out_dir: str) -> None:
    for name in _FILES:
        claim_out_dir(out_dir, name)
    for name in _FILES:
        if (folder / name).exists():
            shutil.copyfile(folder / name, pathlib.Path(out_dir) / name)
