"""Sweeps: every point of a grid, and the best one."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from comm_lopt.hyperparameters import plain
from comm_lopt.meta_test.check_results import SWEEP_VERSION
from comm_lopt.meta_test.problem import Problem
from comm_lopt.meta_test.runs import Curves, run
from comm_lopt.methods import Method
from comm_lopt.versions import versions

__all__ = ["SweepResult", "grid_points", "sweep"]


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """What a sweep found.

    Attributes:
      problem: what was trained.
      method: what was tuned.
      seeds: seeds that each point ran with.
      grid: values by hyperparameter.
      points: hyperparameters of each grid point.
      final_train_loss: [G], mean over seeds; not finite where a seed diverged.
      diverged_seeds: for each point the seeds that diverged.
      curves: all curves.
    """

    problem: Problem
    method: Method
    seeds: tuple[int, ...]
    grid: Mapping[str, tuple[float, ...]]
    points: tuple[dict[str, float], ...]
    final_train_loss: np.ndarray
    diverged_seeds: tuple[tuple[int, ...], ...]
    curves: Curves

    @property
    def best_index(self) -> int:
        """Index of the lowest final training loss among points where no seed diverged.

        Raises:
          ValueError: every point diverged.
        """
        usable = [not diverged for diverged in self.diverged_seeds]
        if not any(usable):
            raise ValueError(
                f"every one of the {len(self.points)} points of {self.method.label}'s grid "
                "diverged; try smaller learning rates."
            )
        return int(np.argmin(np.where(usable, self.final_train_loss, np.inf)))

    @property
    def best(self) -> dict[str, float]:
        """Hyperparameters of the best point; see `best_index`."""
        return self.points[self.best_index]

    @property
    def on_edge(self) -> dict[str, float]:
        """The best values that are the smallest or largest of two or more that were tried."""
        return {
            name: value
            for name, value in self.best.items()
            if len(set(self.grid[name])) > 1
            and value in (min(self.grid[name]), max(self.grid[name]))
        }

    def warning(self) -> str | None:
        """What to tell people about a best point on the edge of its grid."""
        if not self.on_edge:
            return None
        edges = ", ".join(f"{name}={value:g}" for name, value in self.on_edge.items())
        return (
            f"{self.method.label}'s best point lies on the edge of its grid ({edges}): a better "
            "one may lie beyond it; widen the grid there."
        )

    def tuned(self, source: str = "sweep") -> Method:
        """The method at its best point."""
        return self.method.with_values(source, **self.best)

    def to_json(self) -> dict[str, Any]:
        """What sweep.json holds; see docs/formats.md."""
        points = [
            {
                "hparams": point,
                "final_train_loss": None if diverged else float(loss),
                "diverged_seeds": list(diverged),
            }
            for point, loss, diverged in zip(
                self.points, self.final_train_loss, self.diverged_seeds, strict=True
            )
        ]
        return {
            "format_version": SWEEP_VERSION,
            "problem": self.problem.describe(),
            "label": self.method.label,
            "method": self.method.describe(),
            "seeds": list(self.seeds),
            "best": self.best,
            "on_edge": self.on_edge,
            "points": points,
            "versions": versions(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }


def grid_points(grid: Mapping[str, Sequence[float]]) -> tuple[dict[str, float], ...]:
    """The Cartesian product of a grid's values."""
    return tuple(
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    )


def sweep(
    problem: Problem,
    method: Method,
    seeds: Sequence[int],
    grid: Mapping[str, Sequence[float]] | None = None,
    grid_batch_size: int | None = None,
) -> SweepResult:
    """Runs `method` at every point of a grid, in one compiled program.

    Args:
      problem: what is trained.
      method: what is tuned.
      seeds: seeds of each point; a comparison must use others.
      grid: values by hyperparameter, in place of those of the method's own grid. Hyperparameters
        that were given to the method are not in that grid.
      grid_batch_size: see `run`.

    Raises:
      ValueError: a hyperparameter that the method does not have or that is fixed, values that are
        no finite numbers, or none.
    """
    given = {name for name, hparam in method.hparams.items() if hparam.source == "given"}
    whole = {name: values for name, values in method.grid.items() if name not in given}
    for name, values in (grid or {}).items():
        method.require_hparam(name)
        if name in given:
            raise ValueError(
                f"{name} is fixed at {method.values()[name]} and has a grid; leave one out."
            )
        if np.ndim(values) != 1 or not len(values):
            raise ValueError(
                f"the grid gives {name} the values {values!r}; give it a list of one or more."
            )
        whole[name] = tuple(_number(name, value) for value in values)
    points = grid_points(whole)
    curves = run(problem, method, seeds, points, grid_batch_size, evaluations="end")
    seeds = tuple(int(seed) for seed in seeds)
    diverged = tuple(
        tuple(seed for seed, gone in zip(seeds, row, strict=True) if gone)
        for row in curves.diverged
    )
    return SweepResult(
        problem, method, seeds, whole, points, curves.final_train_loss.mean(1), diverged, curves
    )


def _number(name: str, value: Any) -> float:
    number = plain(value)
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
    # A program has float32.
    if not is_number or not abs(number) <= np.finfo(np.float32).max:
        raise ValueError(
            f"{name}={value!r} is not a finite number; write for example {name}=0.5,0.1."
        )
    return number
