"""Which worker sees which training examples: a random part, or one skewed in its labels.

Without a partition every worker draws from everything (the paper's setting).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import gin
import numpy as np

from comm_lopt.checks import require_range
from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.feeding.samplers import BatchSource, checked_seed

__all__ = ["DirichletParts", "IIDParts", "Partition"]


class Partition(Protocol):
    """Divides the training examples among K workers: disjointly, and always the same way."""

    def __call__(self, datasets: ExampleDatasets, num_workers: int) -> Sequence[BatchSource]:
        """Returns one source of training batches for each worker.

        Raises:
          ValueError: a part is smaller than one batch.
        """
        ...


@gin.configurable(module="comm_lopt")
@dataclasses.dataclass(frozen=True)
class IIDParts:
    """Parts of equal size (up to one example), drawn at random; of a text, K stretches of it.

    Attributes:
      seed: seed of the division.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", checked_seed(self.seed))

    def __call__(self, datasets: ExampleDatasets, num_workers: int) -> Sequence[BatchSource]:
        source = datasets.train
        try:
            return source.shards(num_workers, self.seed)
        except ValueError as error:
            raise ValueError(
                f"{source.size} training examples among K = {num_workers} workers: {error}"
            ) from error


@gin.configurable(module="comm_lopt")
@dataclasses.dataclass(frozen=True)
class DirichletParts:
    """Parts whose labels are skewed, as in federated learning.

    The examples of each label are divided among the workers in proportions p ~ Dir(α, ..., α)
    of their own: the smaller α, the fewer workers hold a label. (Hsu, Qi and Brown 2019,
    "Measuring the effects of non-identical data distribution for federated visual
    classification", in the form that divides labels rather than workers.)

    Attributes:
      alpha: α, above 0 and finite; 0.1 is a strong skew, 100 nearly none.
      seed: seed of the division.
    """

    alpha: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        alpha = require_range("alpha", self.alpha, 0.0, exclude_low=True, exclude_high=True)
        object.__setattr__(self, "alpha", alpha)
        object.__setattr__(self, "seed", checked_seed(self.seed))

    def __call__(self, datasets: ExampleDatasets, num_workers: int) -> Sequence[BatchSource]:
        """See `Partition`.

        Raises:
          ValueError: a part is smaller than one batch, or the data has no labels.
        """
        if "label" not in datasets.examples.splits["train"]:
            raise ValueError(
                "DirichletParts divides by label and this data has none; use IIDParts."
            )
        labels = datasets.array_of("train", "label")
        parts = dirichlet_parts(labels, num_workers, self.alpha, self.seed)
        sizes = [len(part) for part in parts]
        if min(sizes) < datasets.train.batch_size:
            raise ValueError(
                f"with alpha={self.alpha} and K = {num_workers} workers the parts have "
                f"{sizes} examples, and one of {min(sizes)} is smaller than one batch of "
                f"{datasets.train.batch_size}; take a larger alpha, fewer workers, a smaller "
                "batch or another seed."
            )
        return [datasets.train.of(part) for part in parts]


def dirichlet_parts(
    labels: np.ndarray, num_workers: int, alpha: float, seed: int
) -> list[np.ndarray]:
    """Positions of each worker's examples, sorted; see `DirichletParts`."""
    generator = np.random.default_rng([seed, num_workers])
    parts: list[list[np.ndarray]] = [[] for _ in range(num_workers)]
    for label in np.unique(labels):
        positions = generator.permutation(np.flatnonzero(labels == label))
        shares = generator.dirichlet(np.full(num_workers, alpha))
        ends = np.rint(np.cumsum(shares)[:-1] * len(positions)).astype(np.int64)
        for part, piece in zip(parts, np.split(positions, ends), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]
