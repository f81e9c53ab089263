"""Sweeps: every point of a grid, and the best one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from comm_lopt.meta_test.problem import Candidate, Problem
from comm_lopt.meta_test.runs import Curves, run
from comm_lopt.optimizers.registry import optimizer_entry, require_hparam

__all__ = ["SweepResult", "grid_points", "sweep"]


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """What a sweep found.

    Attributes:
      optimizer: name of the candidate.
      seeds: seeds that each point ran with.
      points: hyperparameters of each grid point.
      final_train_loss: [G], mean over seeds; not finite where a seed diverged.
      diverged_seeds: for each point the seeds that diverged.
      curves: all curves.
    """

    optimizer: str
    seeds: tuple[int, ...]
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
                f"every one of the {len(self.points)} points of {self.optimizer}'s grid "
                "diverged; try smaller learning rates."
            )
        return int(np.argmin(np.where(usable, self.final_train_loss, np.inf)))

    @property
    def best(self) -> dict[str, float]:
        """Hyperparameters of the best point; see `best_index`."""
        return self.points[self.best_index]


def grid_points(grid: Mapping[str, Sequence[float]]) -> tuple[dict[str, float], ...]:
    """The Cartesian product of a grid's values."""
    return tuple(
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    )


def sweep(
    problem: Problem,
    candidate: Candidate,
    seeds: Sequence[int],
    grid: Mapping[str, Sequence[float]] | None = None,
    grid_batch_size: int | None = None,
) -> SweepResult:
    """Runs `candidate` at every point of a grid, in one compiled program.

    Args:
      problem: what is trained.
      candidate: the optimizer.
      seeds: seeds of each point; a comparison should use others.
      grid: values by hyperparameter; the registry's grid if None.
      grid_batch_size: see `run`.

    Raises:
      ValueError: a hyperparameter that the optimizer does not have, or one without values.
    """
    if grid is None:
        grid = optimizer_entry(candidate.name).grid
    for name, values in grid.items():
        require_hparam(candidate.name, name)
        if not values:
            raise ValueError(f"the grid gives {name} no values; give it at least one.")
    points = grid_points(grid)
    curves = run(problem, candidate, seeds, points, grid_batch_size)
    diverged = tuple(
        tuple(seed for seed, gone in zip(seeds, row, strict=True) if gone)
        for row in curves.diverged
    )
    return SweepResult(
        candidate.name, tuple(seeds), points, curves.final_train_loss.mean(1), diverged, curves
    )
