"""What the hand-designed global optimizers share: an optax transformation applied to Δ."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from comm_lopt.round_state import without_worker_deltas
from comm_lopt.upstream import Optimizer

__all__ = ["HandDesignedOptimizer", "HandDesignedState"]

PyTree = Any


@flax.struct.dataclass
class HandDesignedState:
    """State between rounds.

    Attributes:
      params: global weights W.
      state: model state S.
      transform_state: state of the optax transformation.
      iteration: rounds done, int32.
    """

    params: PyTree
    state: PyTree
    transform_state: PyTree
    iteration: jax.Array


class HandDesignedOptimizer(Optimizer):
    """W ← W + transform(g), where g is what the task family gives as its gradient.

    Upstream's own optax wrapper would store the worker deltas of a family that sends them;
    this one takes them out.

    Args:
      transform: optax transformation; the same object serves an optax training loop.
    """

    def __init__(self, transform: optax.GradientTransformation):
        self.transform = transform

    @property
    def name(self) -> str:
        return type(self).__name__

    def init(
        self,
        params: PyTree,
        model_state: PyTree = None,
        num_steps: int | None = None,
        key: jax.Array | None = None,
        **kwargs: Any,
    ) -> HandDesignedState:
        """State before the first round; `num_steps` and `key` play no part."""
        del num_steps, key, kwargs
        return HandDesignedState(
            params=params,
            state=without_worker_deltas(model_state),
            transform_state=self.transform.init(params),
            iteration=jnp.asarray(0, jnp.int32),
        )

    def update(
        self,
        opt_state: HandDesignedState,
        grad: PyTree,
        loss: jax.Array | None = None,
        model_state: PyTree = None,
        key: jax.Array | None = None,
        **kwargs: Any,
    ) -> HandDesignedState:
        """One global update on `grad` (Δ, or the gradient if data-parallel)."""
        del loss, key, kwargs
        updates, transform_state = self.transform.update(
            grad, opt_state.transform_state, opt_state.params
        )
        return HandDesignedState(
            params=optax.apply_updates(opt_state.params, updates),
            state=without_worker_deltas(model_state),
            # A traced float32 hyperparameter would promote the momentum of bfloat16 parameters.
            transform_state=jax.tree.map(
                lambda new, old: new.astype(old.dtype), transform_state, opt_state.transform_state
            ),
            iteration=opt_state.iteration + 1,
        )
