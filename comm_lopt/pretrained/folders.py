"""Which thetas ship: a folder of this package each, known by its name."""

from __future__ import annotations

import os
import pathlib

__all__ = [
    "CARD_FILE",
    "CONFIG_FILE",
    "HUB_CONFIG_FILE",
    "HUB_SCHEME",
    "README_FILE",
    "path_of",
    "shipped",
]

CARD_FILE, CONFIG_FILE, README_FILE = "card.json", "config.gin", "README.md"
HUB_CONFIG_FILE, HUB_SCHEME = "config.json", "hf://"
_FOLDER = pathlib.Path(__file__).resolve().parent


def shipped() -> dict[str, pathlib.Path]:
    """The folders of the thetas that ship, by name."""
    return {card.parent.name: card.parent for card in sorted(_FOLDER.glob(f"*/{CARD_FILE}"))}


def path_of(name_or_path: str | os.PathLike[str]) -> pathlib.Path:
    """A path where there is something, or else what ships by this name; the path if neither."""
    path = pathlib.Path(name_or_path)
    return path if path.exists() else shipped().get(os.fspath(name_or_path), path)
