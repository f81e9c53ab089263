"""What a meta-training run is made of."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from comm_lopt import upstream
from comm_lopt.meta_train.not_finite import WatchedEstimator
from comm_lopt.meta_train.validation import Validation

__all__ = ["RunParts"]

PyTree = Any


@dataclasses.dataclass(frozen=True)
class RunParts:
    """What a run is made of.

    Attributes:
      folder: the run's folder.
      learner: updates theta.
      estimators: one or more for each task family.
      families: the task family of each estimator.
      learned_opt: the optimizer that is meta-trained.
      seed: of the run.
      num_meta_steps: of the whole run.
      family_names: one for each of the families that are meta-trained on; those of the first are
        the first estimators, and so on, equally many for each.
      validation: judges theta while the run goes; None: not.
      init_theta: where theta starts, in place of a random one.
      started_from: SHA-256 of the file that `init_theta` is from.
    """

    folder: pathlib.Path
    learner: upstream.GradientLearner
    estimators: Sequence[WatchedEstimator]
    families: Sequence[upstream.TaskFamily]
    learned_opt: upstream.LearnedOptimizer
    seed: int
    num_meta_steps: int
    family_names: Sequence[str]
    validation: Validation | None = None
    init_theta: PyTree = None
    started_from: str | None = None
