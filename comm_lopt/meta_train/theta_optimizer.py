"""What trains theta: AdamW with warm-up and a cosine to a third of the largest rate."""

from __future__ import annotations

import gin
import optax

from comm_lopt.checks import require_at_least_one, require_range
from comm_lopt.upstream import OptaxOptimizer

__all__ = ["ThetaAdamW"]


@gin.configurable(module="comm_lopt")
class ThetaAdamW(OptaxOptimizer):
    """AdamW on theta; its learning rate rises linearly, then falls along a cosine.

    (Joseph et al. 2025, section 5.)

    Args:
      learning_rate: largest rate, reached after the warm-up.
      warmup_steps: meta-steps of the linear rise from 0.
      num_meta_steps: meta-steps of the whole run, where the cosine ends.
      final_fraction: last rate as a part of the largest.
      clip_norm: largest global norm of a meta-gradient; None does not clip.
      weight_decay: decoupled weight decay.

    Raises:
      ValueError: an argument outside its interval, or a warm-up as long as the run.
    """

    def __init__(
        self,
        learning_rate: float = 3e-3,
        warmup_steps: int = 100,
        num_meta_steps: int = 5000,
        final_fraction: float = 1 / 3,
        clip_norm: float | None = 1.0,
        weight_decay: float = 1e-4,
    ):
        require_range("learning_rate", learning_rate, 0.0, exclude_low=True)
        require_range("final_fraction", final_fraction, 0.0, 1.0)
        require_range("weight_decay", weight_decay, 0.0)
        require_at_least_one("num_meta_steps", num_meta_steps, "meta-steps")
        if not 0 <= warmup_steps < num_meta_steps:
            raise ValueError(
                f"warmup_steps={warmup_steps} must lie in [0, num_meta_steps={num_meta_steps}); "
                "make the warm-up shorter or the run longer."
            )
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, learning_rate, warmup_steps, num_meta_steps, final_fraction * learning_rate
        )
        transforms = [optax.adamw(schedule, weight_decay=weight_decay)]
        if clip_norm is not None:
            require_range("clip_norm", clip_norm, 0.0, exclude_low=True)
            transforms.insert(0, optax.clip_by_global_norm(clip_norm))
        super().__init__(optax.chain(*transforms))

    @property
    def name(self) -> str:
        """The name of its class."""
        return "ThetaAdamW"
