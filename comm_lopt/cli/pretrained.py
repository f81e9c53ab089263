"""The command `comm-lopt pretrained`: lists thetas, shows a card, copies or publishes one."""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
from typing import Any

from comm_lopt.cli.flags import add_parser
from comm_lopt.meta_test.results import claim_out_dir
from comm_lopt.pretrained.card import read_card
from comm_lopt.pretrained.folders import (
    CARD_FILE,
    CONFIG_FILE,
    HUB_CONFIG_FILE,
    README_FILE,
    shipped,
)
from comm_lopt.pretrained.hub import push
from comm_lopt.pretrained.loading import load
from comm_lopt.pretrained.model_card import body
from comm_lopt.theta import FILE_NAME

__all__ = ["add_pretrained"]

_FILES = (FILE_NAME, CARD_FILE, CONFIG_FILE, README_FILE, HUB_CONFIG_FILE)


def add_pretrained(commands: Any) -> None:
    """Adds the command and its flags."""
    parser = add_parser(
        commands, "pretrained", _pretrained, "list thetas, show a card, copy or publish one"
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="show its card; or a folder, or hf://OWNER/NAME"
    )
    parser.add_argument(
        "--out_dir",
        type=os.path.expanduser,
        default=argparse.SUPPRESS,  # No folder is made where none is wanted.
        metavar="DIR",
        help="copy it here, with its card, in place of showing it",
    )
    parser.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="publish it in this repository of the Hugging Face hub, in place of showing it",
    )
    parser.add_argument(
        "--private", action="store_true", help="make the repository one that others cannot see"
    )


def _pretrained(arguments: argparse.Namespace) -> None:
    copies = "out_dir" in arguments
    if arguments.name is None:
        if copies or arguments.push:
            raise ValueError("--out_dir and --push are for one theta; give its name as well.")
        _list()
        return
    if arguments.push:
        if copies:
            raise ValueError("--out_dir and --push are two things; do one after the other.")
        print(f"published as {push(arguments.name, arguments.push, arguments.private)}")
        return
    found = load(arguments.name)
    if copies:
        _copy(pathlib.Path(found.file["path"]), arguments.out_dir)
        print(f"{found.name} is in {arguments.out_dir}")
        return
    if found.card is None:
        raise ValueError(f"{found.file['path']} has no card; `comm-lopt pretrained` lists some.")
    print(body(found.card), end="")


def _list() -> None:
    columns = "{:<14} {:<8} {:>8}  {:<11} {:<22} {}"
    print(columns.format("name", "rule", "weights", "around", "γ", "meta-trained on"))
    for folder in shipped().values():
        card = read_card(folder)
        rate = card.recommended.formula()
        rate += " (steered)" if card.recommended.steered else ""
        tasks = "; ".join(card.training.tasks)
        weights, around = f"{card.num_weights:,}", card.recommended.local_optimizer
        print(columns.format(card.name, card.rule, weights, around, rate, tasks))
    print("\nand any folder or file of your own, wherever a theta is given.")


def _copy(theta: pathlib.Path, out_dir: str) -> None:
    """Copies a theta, and where it has the name that they have in folders what belongs to it."""
    beside = {name: theta.with_name(name) for name in _FILES if theta.name == FILE_NAME}
    files = {FILE_NAME: theta, **beside}
    for name in files:
        claim_out_dir(out_dir, name)
    for name, path in files.items():
        if path.exists():
            shutil.copyfile(path, pathlib.Path(out_dir) / name)
