"""How far a run has come and how it goes: what its checkpoints hold beside the arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["RUNNING_MEAN", "Progress"]

RUNNING_MEAN = 50
"""Meta-steps over which the running mean of the meta-loss goes."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Counts of a run after a meta-step.

    The *best* checkpoint is the one with the lowest validation loss. Without validation it is the
    one with the lowest mean of the meta-loss over the last 50 meta-steps that were applied. One
    with fewer behind it is then never the best: few losses say little, for each is of other tasks
    at other stages of their training.

    Attributes:
      meta_step: meta-steps done, skipped ones included.
      seconds: wall time of meta-steps, that of earlier processes included.
      recent_losses: the last 50 finite meta-losses.
      skipped: meta-steps that were not applied because a number was not finite.
      skipped_in_a_row: the last so many meta-steps.
      best_meta_step: the best checkpoint's, or None.
      best_mean: its running mean, where there is no validation.
      best_validation: its validation loss, where there is.
    """

    meta_step: int = 0
    seconds: float = 0.0
    recent_losses: tuple[float, ...] = ()
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_meta_step: int | None = None
    best_mean: float | None = None
    best_validation: float | None = None

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Progress:
        """The inverse of `to_json`."""
        return cls(**{**saved, "recent_losses": tuple(saved["recent_losses"])})

    def to_json(self) -> dict[str, Any]:
        """JSON values, which give back every bit."""
        return dataclasses.asdict(self)

    @property
    def running_mean(self) -> float | None:
        """Mean of the last 50 meta-losses, or None before there are 50."""
        if len(self.recent_losses) < RUNNING_MEAN:
            return None
        return math.fsum(self.recent_losses) / RUNNING_MEAN

    def after_applied(self, meta_loss: float, seconds: float) -> Progress:
        """After a meta-step whose update was applied."""
        return dataclasses.replace(
            self,
            meta_step=self.meta_step + 1,
            seconds=seconds,
            recent_losses=(*self.recent_losses, meta_loss)[-RUNNING_MEAN:],
            skipped_in_a_row=0,
        )

    def after_skipped(self, seconds: float) -> Progress:
        """After a meta-step that was not applied."""
        return dataclasses.replace(
            self,
            meta_step=self.meta_step + 1,
            seconds=seconds,
            skipped=self.skipped + 1,
            skipped_in_a_row=self.skipped_in_a_row + 1,
        )

    def after_validation(self, loss: float) -> Progress:
        """With this meta-step as the best, if its validation loss is the lowest so far."""
        if not loss < (math.inf if self.best_validation is None else self.best_validation):
            return self
        return dataclasses.replace(self, best_meta_step=self.meta_step, best_validation=loss)

    def at_checkpoint(self) -> Progress:
        """With this meta-step as the best, if it is by the running mean."""
        mean = self.running_mean
        if mean is None or (self.best_mean is not None and mean >= self.best_mean):
            return self
        return dataclasses.replace(self, best_meta_step=self.meta_step, best_mean=mean)
