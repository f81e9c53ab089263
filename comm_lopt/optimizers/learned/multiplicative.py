"""The published learned rules: p ← p − λ1 · d · exp(λ2 · m)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from comm_lopt.checks import (
    require_at_least_one,
    require_choice,
    require_range,
    require_same_workers,
)
from comm_lopt.optimizers.learned.features import TIME_SCALES, FeatureSet, time_features
from comm_lopt.optimizers.learned.implementations import learned_step
from comm_lopt.optimizers.learned.per_parameter_mlp import init_mlp
from comm_lopt.optimizers.learned.rule import GlobalLearnedOptimizer

__all__ = ["MultiplicativeRule"]

PyTree = Any

_ABSENT = ("refuse", "mean")


class MultiplicativeRule(GlobalLearnedOptimizer):
    """Meta-learned rule p ← p − λ1 · d · exp(λ2 · m), where [d, m] = MLP(features of p).

    (Joseph et al. 2025, section 4; the architecture is that of Metz et al. 2022.) Theta is
    {"features": shifts of the decays, "mlp": weights}.

    Args:
      features: the feature set; that of the class, with its gin bindings, if None.
      num_workers: K if the gradient inputs are the K worker deltas (then K is part of theta's
        shape), None if the one gradient input is the mean Δ.
      hidden_size: width of the MLP.
      hidden_layers: its number of hidden layers.
      step_multiplier: λ1.
      exponent_multiplier: λ2.
      implementation: see `GlobalLearnedOptimizer`.
      absent_workers: what stands for the delta of a worker that was absent from a round, where
        the K worker deltas are inputs: "refuse" takes no such round, "mean" fills in the mean Δ.

    Raises:
      ValueError: a size below 1, a multiplier not above 0, or an unknown choice.
    """

    def __init__(
        self,
        features: FeatureSet | None = None,
        num_workers: int | None = None,
        hidden_size: int = 32,
        hidden_layers: int = 2,
        step_multiplier: float = 0.001,
        exponent_multiplier: float = 0.001,
        implementation: str = "auto",
        absent_workers: str = "refuse",
    ):
        if num_workers is not None:
            num_workers = require_at_least_one("num_workers", num_workers, "workers")
        super().__init__(features, hidden_size, hidden_layers, implementation)
        self.absent_workers = require_choice("absent_workers", absent_workers, _ABSENT)
        self.num_workers = num_workers
        self.step_multiplier = require_range(
            "step_multiplier", step_multiplier, 0.0, exclude_low=True
        )
        self.exponent_multiplier = require_range(
            "exponent_multiplier", exponent_multiplier, 0.0, exclude_low=True
        )

    def hparams(self) -> dict[str, Any]:
        multipliers = {
            "step_multiplier": self.step_multiplier,
            "exponent_multiplier": self.exponent_multiplier,
        }
        workers = {} if self.num_workers is None else {"num_workers": self.num_workers}
        return super().hparams() | multipliers | workers

    def init(self, key: jax.Array) -> PyTree:
        """Random initial theta."""
        num_gradients = self.num_workers or 1
        num_inputs = self.features.num_features(num_gradients) + len(TIME_SCALES)
        return {
            "features": self.features.init_theta(),
            "mlp": init_mlp(key, num_inputs, self.hidden_size, self.hidden_layers),
        }

    def require_no_absence(self) -> None:
        if self.needs_worker_deltas and self.absent_workers == "refuse":
            raise ValueError(
                f"{self.name} sees a fixed number of {self.num_workers} workers, of which some may "
                'be absent from a round; build it with absent_workers="mean", which gives it the '
                "mean Δ in their place, let all take part, or use LOptA."
            )

    def _time(self, state: Any) -> jax.Array:
        return time_features(state.count)

    def _seen_of_workers(
        self,
        treedef: Any,
        worker_weights: jax.Array | None,
        worker_deltas: PyTree = None,
        **of_workers: PyTree,
    ) -> list[Any]:
        if self.num_workers is None:
            return super()._seen_of_workers(treedef, worker_weights, **of_workers)
        if worker_deltas is None:
            raise ValueError(
                f"{self.name} needs each worker's delta, and none is given; build the task family "
                "with LocalSGDTaskFamily(..., worker_deltas=True), or in a loop of your own pass "
                "update(..., worker_deltas=...)."
            )
        for found in {leaf.shape[0] for leaf in jax.tree.leaves(worker_deltas)}:
            require_same_workers(self.name, self.num_workers, found)
        if worker_weights is not None:
            self.require_no_absence()
        return treedef.flatten_up_to(worker_deltas)

    def _gradient_inputs(
        self, delta: jax.Array, seen: jax.Array | None, worker_weights: jax.Array | None
    ) -> jax.Array:
        if seen is None:
            return delta[None]
        gradients = jnp.asarray(seen, jnp.float32)
        if worker_weights is None:
            return gradients
        there = worker_weights.reshape(-1, *[1] * delta.ndim) > 0
        return jnp.where(there, gradients, delta[None])

    def _stepped(self, theta: PyTree, tensor: tuple, time: jax.Array, added: bool) -> jax.Array:
        return learned_step(
            self.implementation, self.features, theta["mlp"], tensor, time, self._step, added
        )

    def _step(self, direction: jax.Array, magnitude: jax.Array) -> jax.Array:
        """−λ1 · d · exp(λ2 · m)."""
        scale = jnp.exp(magnitude * self.exponent_multiplier)
        return -self.step_multiplier * (direction * scale)
