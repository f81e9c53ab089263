"""An optax transformation of Δ as an upstream `Optimizer`."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from comm_lopt.optimizers.full_precision import in_full_precision
from comm_lopt.optimizers.local_rate import local_rate_of, was_undone, with_num_rounds
from comm_lopt.round_state import between_rounds, round_state
from comm_lopt.upstream import Optimizer

__all__ = ["GlobalOptimizer", "GlobalOptimizerState", "as_upstream"]

PyTree = Any


@flax.struct.dataclass
class GlobalOptimizerState:
    """State between rounds.

    Attributes:
      params: global weights W.
      state: model state S, with what else is carried from round to round; see `RoundState`.
      transform_state: state of the optax transformation.
      iteration: rounds done, int32.
    """

    params: PyTree
    state: PyTree
    transform_state: PyTree
    iteration: jax.Array


class GlobalOptimizer(Optimizer):
    """W ← W + transformation(g), where g is what the task family gives as its gradient.

    Upstream's own optax wrapper would store what a round hands to the rule alone, such as the
    worker deltas; this one gives them to the transformation and takes them out.

    Args:
      transformation: of Δ, or of the gradient if data-parallel.
      name: for reports.
    """

    def __init__(self, transformation: optax.GradientTransformationExtraArgs, name: str):
        self.transformation = transformation
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def init(
        self,
        params: PyTree,
        model_state: PyTree = None,
        num_steps: int | None = None,
        key: jax.Array | None = None,
        **kwargs: Any,
    ) -> GlobalOptimizerState:
        """State before the first round; `num_steps` is T, for rules that heed it."""
        del key, kwargs
        transform_state = with_num_rounds(self.transformation.init(params), num_steps)
        return GlobalOptimizerState(
            params=params,
            state=between_rounds(model_state, local_rate_of(transform_state)),
            transform_state=transform_state,
            iteration=jnp.zeros((), jnp.int32),
        )

    def update(
        self,
        opt_state: GlobalOptimizerState,
        grad: PyTree,
        loss: jax.Array | None = None,
        model_state: PyTree = None,
        key: jax.Array | None = None,
        **kwargs: Any,
    ) -> GlobalOptimizerState:
        """One global update on `grad`.

        The transformation is given `loss` as its `value`, and the loss at the round's start, where
        a round tells it, as its `start_value`.
        """
        del key, kwargs
        carried = round_state(model_state)
        params, transform_state = self._advance(
            grad,
            opt_state.transform_state,
            opt_state.params,
            worker_deltas=carried.worker_deltas,
            worker_weights=carried.worker_weights,
            worker_squares=carried.worker_squares,
            value=loss,
            start_value=carried.start_loss,
        )
        return GlobalOptimizerState(
            params=params,
            state=_stored(opt_state, model_state, transform_state),
            transform_state=transform_state,
            iteration=opt_state.iteration + 1,
        )

    def _advance(
        self, delta: PyTree, state: PyTree, params: PyTree, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        """The next parameters, and the transformation's state."""
        updates, state = self.transformation.update(delta, state, params, **extra)
        return optax.apply_updates(params, updates), state


def _stored(before: GlobalOptimizerState, model_state: PyTree, transform_state: PyTree) -> PyTree:
    """What is stored after a round: what was stored before it, if the rule undid the round."""
    rate = local_rate_of(transform_state)
    new = between_rounds(model_state, rate)
    undone = was_undone(before.transform_state, transform_state)
    structure: Any = jax.tree.structure(new)
    # Where this was a first round from nothing, there is nothing to go back to.
    if undone is None or structure != jax.tree.structure(before.state):
        return new
    kept = jax.tree.map(lambda old, new: jnp.where(undone, old, new), before.state, new)
    return kept._replace(local_rate=rate)


def as_upstream(
    transformation: optax.GradientTransformation, name: str = "optax"
) -> GlobalOptimizer:
    """Any optax optimizer as a global optimizer: it descends on Δ where it would on a gradient.

    Parameters of low precision are float32 for it; see `in_full_precision`.

    Args:
      transformation: any optax transformation.
      name: what upstream calls the optimizer.

    Raises:
      TypeError: it is none.
    """
    if not isinstance(transformation, optax.GradientTransformation):
        raise TypeError(
            f"{transformation!r} is not an optax.GradientTransformation; pass for example "
            "optax.sgd(0.7, momentum=0.9, nesterov=True)."
        )
    return GlobalOptimizer(in_full_precision(transformation), name)
