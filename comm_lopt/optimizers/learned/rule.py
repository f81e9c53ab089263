"""Learned global rules: one small MLP, shared by all parameters, applied once a round."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax

from comm_lopt.checks import (
    require_at_least_one,
    require_choice,
    require_range,
    require_same_workers,
)
from comm_lopt.optimizers.as_upstream import GlobalOptimizer
from comm_lopt.optimizers.full_precision import in_full_precision
from comm_lopt.optimizers.learned.features import TIME_SCALES, FeatureSet, time_features
from comm_lopt.optimizers.learned.implementations import IMPLEMENTATIONS, learned_step
from comm_lopt.optimizers.learned.per_parameter_mlp import init_mlp
from comm_lopt.optimizers.learned.sharded import in_auto_mode
from comm_lopt.upstream import LearnedOptimizer, Optimizer

__all__ = ["GlobalLearnedOptimizer", "LearnedRuleState"]

PyTree = Any

_ABSENT = ("refuse", "mean")


class LearnedRuleState(NamedTuple):
    """State of a learned rule between rounds.

    Attributes:
      accumulators: the feature set's named tuple, each of its fields a tree like the parameters,
        as in optax's states, so that what knows these (shardings, Flax NNX) knows this one.
      count: rounds done, int32.
    """

    accumulators: PyTree
    count: jax.Array  # type: ignore[assignment]


class GlobalLearnedOptimizer(LearnedOptimizer):
    """Meta-learned rule p ← p − λ1 · d · exp(λ2 · m), where [d, m] = MLP(features of p).

    (Joseph et al. 2025, section 4; the architecture is that of Metz et al. 2022.) Theta is
    {"features": shifts of the decays, "mlp": weights}.

    A tensor whose Δ is exactly zero everywhere, on all workers, stays where it is: it was frozen
    in the local steps, and momenta of other rounds are not to move it.

    Args:
      features: the feature set; that of the class, with its gin bindings, if None.
      num_workers: K if the gradient inputs are the K worker deltas (then K is part of theta's
        shape), None if the one gradient input is the mean Δ.
      hidden_size: width of the MLP.
      hidden_layers: its number of hidden layers.
      step_multiplier: λ1.
      exponent_multiplier: λ2.
      implementation: how steps are computed, all with the same result: "auto", "plain",
        "blockwise" or "kernel"; see `learned_step`.
      absent_workers: what stands for the delta of a worker that was absent from a round, where
        the K worker deltas are inputs: "refuse" takes no such round, "mean" fills in the mean Δ.

    Raises:
      ValueError: a size below 1, a multiplier not above 0, or an unknown choice.
    """

    feature_set: ClassVar[type[Any]]
    """The class's feature set; theta's header has its arguments."""

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
        self.implementation = require_choice("implementation", implementation, IMPLEMENTATIONS)
        self.absent_workers = require_choice("absent_workers", absent_workers, _ABSENT)
        self.features: FeatureSet = self.feature_set() if features is None else features
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
        """Whether the rule needs `worker_deltas`, that is, K times the memory."""
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

    @classmethod
    def from_hparams(cls, hparams: Mapping[str, Any]) -> Self:
        """The inverse of `hparams`."""
        sizes = dict(hparams)
        return cls(features=cls.feature_set(**sizes.pop("features")), **sizes)

    def init(self, key: jax.Array) -> PyTree:
        """Random initial theta."""
        num_gradients = self.num_workers or 1
        num_inputs = self.features.num_features(num_gradients) + len(TIME_SCALES)
        return {
            "features": self.features.init_theta(),
            "mlp": init_mlp(key, num_inputs, self.hidden_size, self.hidden_layers),
        }

    def transformation(
        self, theta: PyTree, full_precision: bool = True
    ) -> optax.GradientTransformationExtraArgs:
        """The rule that `theta` stands for, as an optax transformation of Δ.

        Its `update(delta, state, params, *, worker_deltas=None, worker_weights=None, **extra)`
        takes the mean Δ = weights before the round − weights after it, like the parameters; where
        `needs_worker_deltas`, the deltas of the K workers, [K, ...], and, where some may have been
        absent, their weights [K], which are 0 for these. It returns what is to be added to the
        parameters. Learning rates, schedules and weight decay can stand outside, in
        `optax.chain`.

        Args:
          theta: meta-parameters, from `init` or `load_theta`.
          full_precision: see `in_full_precision`; it is about parameters of low precision.

        Raises:
          ValueError: by `update`: no parameters; worker deltas that are missing or of another K;
            absent workers with `absent_workers="refuse"`.
        """

        def init(params: PyTree) -> LearnedRuleState:
            accumulators = [self.features.init(param) for param in jax.tree.leaves(params)]
            trees = self._fields_of_trees(accumulators, jax.tree.structure(params))
            return LearnedRuleState(trees, jnp.zeros((), jnp.int32))

        def update(
            delta: PyTree, state: LearnedRuleState, params: PyTree = None, **extra: Any
        ) -> tuple[PyTree, LearnedRuleState]:
            return self.after_round(theta, delta, state, params, added=False, **extra)

        rule = optax.GradientTransformationExtraArgs(init, update)
        return in_full_precision(rule, full_precision)

    def opt_fn(self, theta: PyTree, is_training: bool = False) -> Optimizer:
        """The optimizer that `theta` stands for, as an upstream `Optimizer`."""
        del is_training
        return _LearnedGlobalOptimizer(self, theta)

    def after_round(
        self,
        theta: PyTree,
        delta: PyTree,
        state: LearnedRuleState,
        params: PyTree,
        *,
        added: bool,
        worker_deltas: PyTree = None,
        worker_weights: jax.Array | None = None,
        **extra: Any,
    ) -> tuple[PyTree, LearnedRuleState]:
        """What `transformation`'s update computes, on parameters of at least float32.

        Args:
          theta: meta-parameters.
          delta: mean Δ.
          state: of the round before.
          params: W.
          added: return W' = W + the steps instead of the steps, which spares an array of W's size.
          worker_deltas: [K, ...].
          worker_weights: [K].
          **extra: they play no part.
        """
        del extra
        treedef: Any = jax.tree.structure(params)
        deltas = treedef.flatten_up_to(delta)
        if self.num_workers is None:
            gradients: list[Any] = [None] * len(deltas)
        else:
            self._check_workers(worker_deltas, worker_weights)
            gradients = treedef.flatten_up_to(worker_deltas)
        time = time_features(state.count)
        accumulators = self._one_for_each_tensor(state.accumulators, treedef)
        new = [
            self._after_round(theta, *tensor, worker_weights, time, added=added)
            for tensor in zip(
                treedef.flatten_up_to(params), deltas, gradients, accumulators, strict=True
            )
        ]
        trees = self._fields_of_trees([accumulators for _, accumulators in new], treedef)
        out = treedef.unflatten([value for value, _ in new])
        return out, LearnedRuleState(trees, state.count + 1)

    @in_auto_mode
    def _after_round(
        self,
        theta: PyTree,
        param: jax.Array,
        delta: jax.Array,
        gradients: jax.Array | None,
        accumulators: PyTree,
        worker_weights: jax.Array | None,
        time: jax.Array,
        *,
        added: bool,
    ) -> tuple[jax.Array, PyTree]:
        """A tensor's step, or what it comes to, and its accumulators after this round."""
        if param.size == 0:
            return param if added else jnp.zeros_like(param), accumulators
        weights, delta = (jnp.asarray(array, jnp.float32) for array in (param, delta))
        if gradients is None:
            gradients = delta[None]
        else:
            gradients = jnp.asarray(gradients, jnp.float32)
            if worker_weights is not None:
                there = worker_weights.reshape(-1, *[1] * delta.ndim) > 0
                gradients = jnp.where(there, gradients, delta[None])
        accumulators = self.features.update(theta["features"], accumulators, delta)
        tensor = (accumulators, weights, delta, gradients)
        out = learned_step(
            self.implementation, self.features, theta["mlp"], tensor, time, self._step, added
        )
        return out.astype(param.dtype), accumulators

    def _step(self, direction: jax.Array, magnitude: jax.Array) -> jax.Array:
        """−λ1 · d · exp(λ2 · m)."""
        scale = jnp.exp(magnitude * self.exponent_multiplier)
        return -self.step_multiplier * (direction * scale)

    def _check_workers(self, worker_deltas: PyTree, worker_weights: jax.Array | None) -> None:
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

    def require_no_absence(self) -> None:
        """Raises ValueError unless the rule can do without some of the workers' deltas."""
        if self.needs_worker_deltas and self.absent_workers == "refuse":
            raise ValueError(
                f"{self.name} sees a fixed number of {self.num_workers} workers, of which some may "
                'be absent from a round; build it with absent_workers="mean", which gives it the '
                "mean Δ in their place, let all take part, or use LOptA."
            )

    def _fields_of_trees(self, accumulators: list[Any], treedef: Any) -> Any:
        """From a named tuple for each tensor to one of trees."""
        kind = self.features.accumulators
        fields = zip(*accumulators, strict=True) if accumulators else [()] * len(kind._fields)
        return kind(*map(treedef.unflatten, fields))

    def _one_for_each_tensor(self, accumulators: Any, treedef: Any) -> list[Any]:
        """The inverse of `_fields_of_trees`."""
        fields = map(treedef.flatten_up_to, accumulators)
        return [self.features.accumulators(*tensor) for tensor in zip(*fields, strict=True)]


class _LearnedGlobalOptimizer(GlobalOptimizer):
    """Adds each step in the pass that computes it, where the parameters are float32."""

    def __init__(self, learned_opt: GlobalLearnedOptimizer, theta: PyTree):
        super().__init__(learned_opt.transformation(theta), learned_opt.name)
        self._learned_opt, self._theta = learned_opt, theta

    def _advance(
        self, delta: PyTree, state: PyTree, params: PyTree, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        if any(leaf.dtype != jnp.float32 for leaf in jax.tree.leaves(params)):
            return super()._advance(delta, state, params, **extra)
        after_round = self._learned_opt.after_round
        params, inner = after_round(self._theta, delta, state.inner, params, added=True, **extra)
        return params, state._replace(inner=inner)
