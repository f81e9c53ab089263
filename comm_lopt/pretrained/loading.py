"""Reads a theta with its card: one that ships, by its name, or any folder or file."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import optax

from comm_lopt.checks import did_you_mean
from comm_lopt.pretrained.card import Card, read_card
from comm_lopt.pretrained.folders import CARD_FILE, HUB_SCHEME, path_of, shipped
from comm_lopt.theta import FILE_NAME, ThetaError, load_theta, theta_file
from comm_lopt.upstream import LearnedOptimizer

__all__ = ["Pretrained", "load"]

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A learned optimizer that is ready to use.

    Attributes:
      name: the card's, or that of its folder or file.
      learned_opt: the optimizer.
      theta: its meta-parameters, a tree as from its `init`.
      card: what is known of it; None where none lies beside theta.
      trained_on: what theta's header says of its training.
      file: its absolute "path" and the "sha256" of its bytes.
    """

    name: str
    learned_opt: LearnedOptimizer
    theta: PyTree
    card: Card | None
    trained_on: Mapping[str, Any]
    file: Mapping[str, str]

    def transformation(self, **options: Any) -> optax.GradientTransformationExtraArgs:
        """The rule as an optax transformation of Δ; see `GlobalLearnedOptimizer.transformation`.

        Args:
          **options: `full_precision`, and `num_rounds`, T of the run.

        Raises:
          TypeError: a learned optimizer of one's own that gives none.
        """
        learned_opt: Any = self.learned_opt
        if not hasattr(learned_opt, "transformation"):
            raise TypeError(
                f"{type(learned_opt).__name__} has no method `transformation`; use its upstream "
                "optimizer, learned_opt.opt_fn(theta)."
            )
        return learned_opt.transformation(self.theta, **options)


def load(name_or_path: str | os.PathLike[str]) -> Pretrained:
    """Reads a theta and its card. Nothing in the files is executed.

    Args:
      name_or_path: name of one that ships (see `comm-lopt pretrained`), or a folder or file with a
        theta. What is there as a path is no name. "hf://OWNER/NAME" or
        "hf://OWNER/NAME@REVISION" is one of the Hugging Face hub, which is downloaded.

    Returns:
      The optimizer, theta and card.

    Raises:
      ValueError: a name that does not ship.
      FileNotFoundError: a path where there is no theta.
      ThetaError: theta or card cannot be used, or theta is not the one that the card is of.
      ImportError: one of the hub, and huggingface_hub is not installed.
      ConnectionError: one of the hub, which does not answer.
    """
    if isinstance(name_or_path, str) and name_or_path.startswith(HUB_SCHEME):
        from comm_lopt.pretrained.hub import pulled

        found = load(pulled(name_or_path))
        repository = name_or_path.partition("@")[0].rpartition("/")[2]
        return found if found.card else dataclasses.replace(found, name=repository)
    path = path_of(name_or_path)
    if not path.exists() and path.name == os.fspath(name_or_path):
        raise ValueError(_unknown(path.name))
    learned_opt, theta, trained_on = load_theta(path)
    file = theta_file(path)
    theta_path = pathlib.Path(file["path"])
    folder, card = theta_path.parent, None
    if theta_path.name == FILE_NAME and (folder / CARD_FILE).exists():
        card = read_card(folder)
        if (card.rule, card.sha256) != (type(learned_opt).__name__, file["sha256"]):
            raise ThetaError(
                f"{folder / CARD_FILE} is of another theta than {theta_path}: it is of a "
                f"{card.rule} with SHA-256 {card.sha256}, and this is a "
                f"{type(learned_opt).__name__} with {file['sha256']}; put back the theta, or take "
                "the card away."
            )
    name = card.name if card else folder.name if theta_path.name == FILE_NAME else theta_path.stem
    return Pretrained(name, learned_opt, theta, card, trained_on, file)


def _unknown(name: str) -> str:
    names = list(shipped())
    meant = did_you_mean(name, names) or "pass one of these, or a folder or file."
    ships = f"but {', '.join(names)}" if names else "nor does any other"
    return f"no theta at {name}, and none of this name ships, {ships}; {meant}"
