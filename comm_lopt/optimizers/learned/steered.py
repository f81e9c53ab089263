"""What rules share that steer the local learning rate: a round is a step, or is undone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp

from comm_lopt.optimizers.learned.features import FeatureSet
from comm_lopt.optimizers.learned.rule import GlobalLearnedOptimizer, LearnedRuleState
from comm_lopt.optimizers.learned.steering import SteeredRuleState, Steering, alignment

__all__ = ["SteeredLearnedOptimizer"]

PyTree = Any


class SteeredLearnedOptimizer(GlobalLearnedOptimizer):
    """A learned rule that also says by what to multiply γ in the next round; see `Steering`.

    Its accumulators have averages of Δ, `momentum`.

    Args:
      features, hidden_size, hidden_layers, implementation: see `GlobalLearnedOptimizer`.
      steering: how γ is steered, `Steering()` if True; False leaves γ as it is.
    """

    def __init__(
        self,
        features: FeatureSet | None,
        hidden_size: int,
        hidden_layers: int,
        implementation: str,
        steering: Steering | bool,
    ):
        super().__init__(features, hidden_size, hidden_layers, implementation)
        self.steering = Steering() if steering is True else steering or None

    def hparams(self) -> dict[str, Any]:
        """The arguments that decide theta's shape and meaning, as they go into its header."""
        steering = False if self.steering is None else dataclasses.asdict(self.steering)
        return super().hparams() | {"steering": steering}

    @classmethod
    def from_hparams(cls, hparams: Mapping[str, Any]) -> Self:
        """The inverse of `hparams`."""
        steering = hparams["steering"] and Steering(**hparams["steering"])
        return super().from_hparams({**hparams, "steering": steering})

    def _init_steering(self, num_momenta: int) -> dict[str, PyTree]:
        """What theta has for steering."""
        return {} if self.steering is None else {"steering": self.steering.init(num_momenta)}

    def start(self, params: PyTree) -> Any:
        """The state before the first round, of `params`, a tree of arrays.

        It is a `SteeredRuleState`, or a `LearnedRuleState` without steering.
        """
        state = super().start(params)
        if self.steering is None:
            return state
        return self.steering.start(state.accumulators, state.count, params)

    def after_round(
        self, theta: PyTree, delta: PyTree, state: Any, params: PyTree, *, added: bool,
        value: jax.Array | None = None, start_value: jax.Array | None = None,
        **from_round: PyTree,
    ) -> tuple[PyTree, Any]:  # fmt: skip
        """One step, or the undoing of one: what `transformation`'s update computes.

        Args:
          theta: a tree, as from `init`.
          delta: mean Δ, of the shapes of `params`.
          state: of the round before.
          params: W, a tree of arrays.
          added: return W' = W + the steps instead of the steps.
          value: the round's training loss, a scalar; None: it is not known.
          start_value: the training loss at the round's start, before any local step, a scalar;
            None: it is not known. It counts where `value` is given.
          **from_round: `worker_weights`, [K], and `of_workers` of
            `GlobalLearnedOptimizer.after_round`.

        Returns:
          W' or the steps, of the shapes of `params`, and the new state.
        """

        def go_on(state: Any, params: PyTree) -> tuple[PyTree, Any]:
            return super(SteeredLearnedOptimizer, self).after_round(
                theta, delta, state, params, added=added, **from_round
            )

        if self.steering is None:
            return go_on(state, params)

        def undo(state: SteeredRuleState, params: PyTree) -> tuple[PyTree, LearnedRuleState]:
            back = jax.tree.map(
                lambda old, w: jnp.where(step_undone, old, w), state.previous, params
            )
            if not added:
                back = jax.tree.map(jnp.subtract, back, params)
            return back, LearnedRuleState(state.accumulators, state.count + 1)

        treedef: Any = jax.tree.structure(params)
        deltas = [jnp.asarray(d, jnp.float32) for d in treedef.flatten_up_to(delta)]
        value, start_value = (
            None if loss is None else jnp.asarray(loss, jnp.float32)
            for loss in (value, start_value)
        )
        undone, step_undone = self.steering.undoes(state, deltas, value, start_value)
        out, new = jax.lax.cond(undone, undo, go_on, state, params)
        aligned = jnp.zeros((), jnp.float32)
        if self.steering.pace:  # Else nothing looks at it, and it takes a pass over all momenta.
            aligned = alignment(deltas, treedef.flatten_up_to(state.accumulators.momentum))
        steered = self.steering.after(theta["steering"], state, aligned, value, undone, start_value)
        rounds_undone = state.rounds_undone + undone.astype(jnp.int32)
        previous = jax.tree.map(lambda old, w: jnp.where(undone, old, w), state.previous, params)
        return out, SteeredRuleState(
            new.accumulators, new.count, *steered, rounds_undone, previous, state.num_rounds
        )
