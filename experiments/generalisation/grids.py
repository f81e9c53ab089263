"""What each baseline is tuned on: axes whose steps are equal ratios, and how far to look."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

__all__ = ["BASELINES", "Axis", "Choice", "Plan", "Point"]

Point = tuple[int, ...]
"""A position on each axis of a plan."""
Move = Callable[[int, Collection[int]], Iterable[int]]
"""Takes a position and those that were tried; gives others to try."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """Values x = start · ratio^(i/2) at position i: the coarse grid has the even positions.

    Attributes:
      name: the hyperparameter.
      start: x at position 0.
      ratio: of two neighbours on the coarse grid.
      count: values on the coarse grid.
      complement: the hyperparameter is 1 − x, as that of a momentum, and x stays below 1.
    """

    name: str
    start: float
    ratio: float
    count: int
    complement: bool = False

    def coarse(self) -> range:
        """Positions of the coarse grid."""
        return range(0, 2 * self.count, 2)

    def value(self, position: int) -> float:
        """The hyperparameter, to three digits."""
        x = self.start * self.ratio ** (position / 2)
        return float(f"{1 - x if self.complement else x:.3g}")

    def beyond(self, position: int, tried: Collection[int]) -> Iterator[int]:
        """The next coarse position past each end of what was tried, if `position` is that end."""
        for end, step in ((min(tried), -2), (max(tried), 2)):
            if position == end and self._allows(position + step):
                yield position + step

    def between(self, position: int, tried: Collection[int]) -> Iterator[int]:
        """The positions half a step away that lie within what was tried."""
        for near in (position - 1, position + 1):
            if min(tried) <= near <= max(tried):
                yield near

    def _allows(self, position: int) -> bool:
        return not self.complement or 0 < self.value(position) < 1


@dataclasses.dataclass(frozen=True)
class Choice:
    """Values without an order; the coarse grid has the first, and the others are tried later."""

    name: str
    values: tuple[float, ...]

    def coarse(self) -> range:
        """See `Axis`."""
        return range(1)

    def value(self, position: int) -> float:
        """See `Axis`."""
        return self.values[position]

    def beyond(self, position: int, tried: Collection[int]) -> Iterator[int]:
        """None: it has no ends."""
        return iter(())

    def between(self, position: int, tried: Collection[int]) -> Iterator[int]:
        """The other values."""
        return (other for other in range(len(self.values)) if other != position)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a method is tuned; see `tuning.tune`.

    Attributes:
      axes: what is tuned.
      kept: points of the coarse grid that are tried at full length.
      refinements: times that the neighbours of the best point are tried, half a step away and
        beyond the grid's edge.
      finalists: points that run with all tuning seeds.
      num_seeds: tuning seeds of a finalist.
    """

    axes: tuple[Axis | Choice, ...]
    kept: int = 6
    refinements: int = 2
    finalists: int = 3
    num_seeds: int = 3

    def lean(self) -> Plan:
        """The same grid with fewer long runs."""
        return dataclasses.replace(self, kept=2, refinements=1, finalists=2, num_seeds=2)

    def leanest(self) -> Plan:
        """The same without a run over further seeds."""
        return dataclasses.replace(self.lean(), finalists=1)

    def coarse(self) -> list[Point]:
        """Every point of the coarse grid."""
        return list(itertools.product(*(axis.coarse() for axis in self.axes)))

    def hparams(self, point: Point) -> dict[str, float]:
        """The hyperparameters of a point."""
        return {
            axis.name: axis.value(position) for axis, position in zip(self.axes, point, strict=True)
        }

    def beyond(self, best: Point, tried: Collection[Point]) -> list[Point]:
        """The points past the edges that `best` lies on."""
        return self._moved(best, tried, lambda axis: axis.beyond)

    def between(self, best: Point, tried: Collection[Point]) -> list[Point]:
        """The points around `best` that lie within the grid."""
        return self._moved(best, tried, lambda axis: axis.between)

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    def _moved(
        self, best: Point, tried: Collection[Point], way: Callable[[Axis | Choice], Move]
    ) -> list[Point]:
        return [
            (*best[:number], position, *best[number + 1 :])
            for number, axis in enumerate(self.axes)
            for position in way(axis)(best[number], {point[number] for point in tried})
        ]


_RATE = Axis("local_learning_rate", 0.05, 3.0, 4)
_MOMENTUM = Axis("momentum", 0.05, 2.5, 3, complement=True)

BASELINES: Mapping[str, Plan] = {
    "LocalSGD": Plan((Axis("local_learning_rate", 0.03, 2.0, 8),)),
    "SlowMo": Plan((_RATE, Axis("slow_learning_rate", 0.5, 2.0, 3), _MOMENTUM)),
    "DiLoCo": Plan(
        (
            Axis("local_learning_rate", 0.001, 3.0, 4),
            Axis("learning_rate", 0.35, 2.0, 3),
            _MOMENTUM,
            Choice("local_weight_decay", (0.1, 0.0)),
        )
    ),
    "FedAdam": Plan((_RATE, Axis("learning_rate", 0.003, 3.0, 3), Axis("tau", 1e-3, 10.0, 3))),
    # Its steps cost many times those of the others.
    "MuLoCo": Plan(
        (
            Axis("local_learning_rate", 0.01, 3.0, 3),
            Axis("learning_rate", 0.5, 2.0, 2),
            Axis("momentum", 0.2, 2.0, 2, complement=True),
        ),
        kept=4,
    ),
    # Around what MuLoCo is best with on most of the test tasks.
    "MuLoCoLinear": Plan(
        (
            Axis("local_learning_rate", 0.03, 2.0, 3),
            Axis("learning_rate", 0.5, 2.0, 1),
            Axis("momentum", 0.4, 2.0, 1, complement=True),
        ),
        kept=2,
        refinements=1,
        finalists=2,
    ),
    "DataParallelSGD": Plan((Axis("learning_rate", 0.03, 2.0, 8),)),
    "DataParallelAdam": Plan((Axis("learning_rate", 0.0003, 2.0, 8),)),
}
