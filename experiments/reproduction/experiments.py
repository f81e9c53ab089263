"""An experiment as its folder's experiment.toml describes it, and the thetas of thetas.toml."""

from __future__ import annotations

import dataclasses
import pathlib
import tomllib
from collections.abc import Mapping
from typing import Any

from tuned import BASELINES

import comm_lopt
from comm_lopt.meta_test import Problem, meta_test_problem

__all__ = [
    "SIZES",
    "Compared",
    "Experiment",
    "Recipe",
    "experiment_names",
    "read_experiment",
    "read_recipes",
]

FOLDER = pathlib.Path(__file__).resolve().parent

SIZES = {"cpu": "thetas.toml", "paper": "thetas_paper.toml"}
"""Where the thetas of each size are described."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a theta is meta-trained.

    Attributes:
      config: gin files that ship.
      bindings: gin's, after them.
    """

    config: tuple[str, ...]
    bindings: tuple[str, ...] = ()

    def load(self) -> None:
        """Has gin describe the meta-training."""
        comm_lopt.load_config([*self.config], [*self.bindings])


@dataclasses.dataclass(frozen=True)
class Compared:
    """A problem of an experiment, and who is compared on it.

    Attributes:
      name: of its folder of results.
      title: for the table.
      config: gin files, of this folder or shipped.
      bindings: gin's, after them.
      baselines: names of tuned baselines.
      thetas: names of thetas.toml or of what ships, with values behind a colon.
      num_seeds: test seeds.
      tuning_rounds: see `TestProblem`.
      lean: see there.
    """

    name: str
    title: str
    config: tuple[str, ...]
    bindings: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    thetas: tuple[str, ...] = ()
    num_seeds: int = 10
    tuning_rounds: int | None = None
    lean: tuple[str, ...] = tuple(BASELINES)
    leanest: tuple[str, ...] = ()
    task: int = 1

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of the comparison, none of which tuning sees."""
        return tuple(range(100, 100 + self.num_seeds))

    def load(self) -> Problem:
        """Has gin describe the problem, in place of what it described."""
        own = [FOLDER / name for name in self.config]
        files = [
            str(path) if path.exists() else n for path, n in zip(own, self.config, strict=True)
        ]
        comm_lopt.load_config(files, [*self.bindings])
        return meta_test_problem()


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A claim, and the problems on which it is looked at.

    Attributes:
      name: of its folder.
      title: for the table.
      claim: what it is about, and where that is claimed.
      problems: in the table's order.
    """

    name: str
    title: str
    claim: str
    problems: tuple[Compared, ...]


def experiment_names() -> list[str]:
    """All of them."""
    return sorted(path.parent.name for path in FOLDER.glob("*/experiment.toml"))


def read_experiment(name: str, size: str = "cpu") -> Experiment:
    """The experiment of a folder. Values beside [problems] are those of each that has no other.

    Args:
      name: of the folder.
      size: of `SIZES`; what [paper] has stands in place of the rest at the paper's.

    Raises:
      ValueError: there is no such folder, or a baseline is none.
    """
    if name not in experiment_names():
        raise ValueError(f"there is no {name}; choose of {', '.join(experiment_names())}.")
    told = _read(FOLDER / name / "experiment.toml")
    at_papers_size = told.pop("paper", {})
    if size == "paper":
        told |= at_papers_size
    title, claim, problems = (told.pop(key) for key in ("title", "claim", "problems"))
    found = tuple(
        Compared(name=problem, task=number, **_tuples({**told, **values}))
        for number, (problem, values) in enumerate(problems.items(), start=1)
    )
    unknown = {b for problem in found for b in problem.baselines} - BASELINES.keys()
    if unknown:
        raise ValueError(f"{name}: there is no {unknown}; choose of {', '.join(BASELINES)}.")
    return Experiment(name, title, claim, found)


def read_recipes(size: str = "cpu") -> dict[str, Recipe]:
    """All thetas that can be meta-trained at a size, by name."""
    return {name: Recipe(**_tuples(told)) for name, told in _read(FOLDER / SIZES[size]).items()}


def _read(path: pathlib.Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
