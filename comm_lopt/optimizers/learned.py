"""Learned global optimizers: one small MLP, shared by all parameters, applied once a round."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from comm_lopt.checks import require_at_least_one, require_choice, require_range
from comm_lopt.optimizers.features import TIME_SCALES, FeatureSet, time_features
from comm_lopt.optimizers.methods import METHODS, new_values
from comm_lopt.optimizers.per_parameter_mlp import init_mlp
from comm_lopt.round_state import RoundState, without_worker_deltas
from comm_lopt.upstream import LearnedOptimizer, Optimizer

__all__ = ["GlobalLearnedOptimizer", "LearnedOptimizerState"]

PyTree = Any


@flax.struct.dataclass
class LearnedOptimizerState:
    """State of a learned global optimizer between rounds.

    Attributes:
      params: global weights W.
      state: model state S, never with worker deltas in it.
      accumulators: like `params`, with the feature set's accumulators at each leaf.
      iteration: rounds done, int32.
    """

    params: PyTree
    state: PyTree
    accumulators: PyTree
    iteration: jax.Array


class GlobalLearnedOptimizer(LearnedOptimizer):
    """Meta-learned rule p ← p − λ1 · d · exp(λ2 · m), where [d, m] = MLP(features of p).

    (Joseph et al. 2025, section 4; the architecture is that of Metz et al. 2022.) Theta is
    {"features": shifts of the decays, "mlp": weights}.

    Args:
      features: the feature set.
      num_workers: K if the gradient inputs are the K worker deltas (then K is part of theta's
        shape), None if the one gradient input is the mean Δ.
      hidden_size: width of the MLP.
      hidden_layers: its number of hidden layers.
      step_multiplier: λ1.
      exponent_multiplier: λ2.
      method: how updates are computed, all with the same result: "auto", "plain", "blockwise"
        or "kernel"; see `new_values`.

    Raises:
      ValueError: a size below 1, a multiplier not above 0, or an unknown method.
    """

    def __init__(
        self,
        features: FeatureSet,
        num_workers: int | None,
        hidden_size: int = 32,
        hidden_layers: int = 2,
        step_multiplier: float = 0.001,
        exponent_multiplier: float = 0.001,
        method: str = "auto",
    ):
        if num_workers is not None:
            num_workers = require_at_least_one("num_workers", num_workers, "workers")
        self.method = require_choice("method", method, METHODS)
        self.features = features
        self.num_workers = num_workers
        self.hidden_size = require_at_least_one("hidden_size", hidden_size, "hidden units")
        self.hidden_layers = require_at_least_one("hidden_layers", hidden_layers, "hidden layers")
        self.step_multiplier = require_range(
            "step_multiplier", step_multiplier, 0.0, exclude_low=True
        )
        self.exponent_multiplier = require_range(
            "exponent_multiplier", exponent_multiplier, 0.0, exclude_low=True
        )

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def needs_worker_deltas(self) -> bool:
        """Whether the task family must be built with `worker_deltas=True`."""
        return self.num_workers is not None

    def hparams(self) -> dict[str, Any]:
        """The arguments that decide theta's shape and meaning, as they go into its header."""
        sizes: dict[str, Any] = {
            "hidden_size": self.hidden_size,
            "hidden_layers": self.hidden_layers,
            "step_multiplier": self.step_multiplier,
            "exponent_multiplier": self.exponent_multiplier,
            "features": dataclasses.asdict(self.features),  # type: ignore[call-overload]
        }
        if self.num_workers is not None:
            sizes["num_workers"] = self.num_workers
        return sizes

    def init(self, key: jax.Array) -> PyTree:
        """Random initial theta."""
        num_gradients = self.num_workers or 1
        num_inputs = self.features.num_features(num_gradients) + len(TIME_SCALES)
        return {
            "features": self.features.init_theta(),
            "mlp": init_mlp(key, num_inputs, self.hidden_size, self.hidden_layers),
        }

    def opt_fn(self, theta: PyTree, is_training: bool = False) -> Optimizer:
        """The optimizer that `theta` stands for, as an upstream `Optimizer`."""
        del is_training
        return _LearnedGlobalOptimizer(self, theta)


class _LearnedGlobalOptimizer(Optimizer):
    def __init__(self, learned_opt: GlobalLearnedOptimizer, theta: PyTree):
        self._learned_opt = learned_opt
        self._theta = theta

    @property
    def name(self) -> str:
        return self._learned_opt.name

    def init(
        self,
        params: PyTree,
        model_state: PyTree = None,
        num_steps: int | None = None,
        key: jax.Array | None = None,
        **kwargs: Any,
    ) -> LearnedOptimizerState:
        """State before the first round; `num_steps` and `key` play no part."""
        del num_steps, key, kwargs
        return LearnedOptimizerState(
            params=params,
            state=without_worker_deltas(model_state),
            accumulators=jax.tree.map(self._learned_opt.features.init, params),
            iteration=jnp.asarray(0, jnp.int32),
        )

    def update(
        self,
        opt_state: LearnedOptimizerState,
        grad: PyTree,
        loss: jax.Array | None = None,
        model_state: PyTree = None,
        key: jax.Array | None = None,
        **kwargs: Any,
    ) -> LearnedOptimizerState:
        """One global update.

        Args:
          opt_state: state of the round before.
          grad: mean Δ, like the parameters.
          loss: plays no part.
          model_state: the round's model state; a `RoundState` if worker deltas are needed.
          key: plays no part.
          **kwargs: upstream's further arguments; they play no part.

        Returns:
          The next state.

        Raises:
          ValueError: worker deltas are needed and missing, or are of another K.
        """
        del loss, key, kwargs
        learned_opt = self._learned_opt
        treedef: Any = jax.tree.structure(opt_state.params)
        params = jax.tree.leaves(opt_state.params)
        deltas = treedef.flatten_up_to(grad)
        accumulators = treedef.flatten_up_to(opt_state.accumulators)
        if learned_opt.num_workers is None:
            gradients = [_float32(delta)[None] for delta in deltas]
        else:
            workers = _worker_deltas(learned_opt, model_state)
            gradients = [_float32(w) for w in treedef.flatten_up_to(workers)]
        time = time_features(opt_state.iteration)
        new = [
            self._update_tensor(*tensor, time)
            for tensor in zip(params, deltas, gradients, accumulators, strict=True)
        ]
        return LearnedOptimizerState(
            params=treedef.unflatten([param for param, _ in new]),
            state=without_worker_deltas(model_state),
            accumulators=treedef.unflatten([accumulator for _, accumulator in new]),
            iteration=opt_state.iteration + 1,
        )

    def _update_tensor(
        self,
        param: jax.Array,
        delta: jax.Array,
        gradients: jax.Array,
        accumulators: PyTree,
        time: jax.Array,
    ) -> tuple[jax.Array, PyTree]:
        learned_opt, theta = self._learned_opt, self._theta
        features = learned_opt.features
        delta, weights = _float32(delta), _float32(param)
        accumulators = features.update(theta["features"], accumulators, delta)
        tensor = (accumulators, weights, delta, gradients)
        new = new_values(learned_opt.method, features, theta["mlp"], tensor, time, self._step)
        return new.astype(param.dtype), accumulators

    def _step(self, param: jax.Array, direction: jax.Array, magnitude: jax.Array) -> jax.Array:
        """p − λ1 · d · exp(λ2 · m)."""
        learned_opt = self._learned_opt
        scale = jnp.exp(magnitude * learned_opt.exponent_multiplier)
        return param - learned_opt.step_multiplier * (direction * scale)


def _float32(array: jax.Array) -> jax.Array:
    return jnp.asarray(array, jnp.float32)


def _worker_deltas(learned_opt: GlobalLearnedOptimizer, model_state: PyTree) -> PyTree:
    if not isinstance(model_state, RoundState):
        raise ValueError(
            f"{learned_opt.name} needs each worker's delta, and the task's model state carries "
            "none; build the family with LocalSGDTaskFamily(..., worker_deltas=True)."
        )
    num_workers = jax.tree.leaves(model_state.worker_deltas)[0].shape[0]
    if num_workers != learned_opt.num_workers:
        raise ValueError(
            f"{learned_opt.name} was built for num_workers={learned_opt.num_workers} and got the "
            f"deltas of {num_workers} workers: K is part of theta's shape; meta-train another "
            f"one for num_workers={num_workers}, or use LOptA, which works for every K."
        )
    return model_state.worker_deltas
