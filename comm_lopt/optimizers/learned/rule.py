"""What all learned global rules share: one small MLP, applied to every parameter once a round."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax

from comm_lopt.checks import require_at_least_one, require_choice
from comm_lopt.optimizers.as_upstream import GlobalOptimizer
from comm_lopt.optimizers.full_precision import in_full_precision
from comm_lopt.optimizers.learned.features import FeatureSet
from comm_lopt.optimizers.learned.implementations import IMPLEMENTATIONS
from comm_lopt.optimizers.learned.sharded import in_auto_mode
from comm_lopt.optimizers.local_rate import with_num_rounds
from comm_lopt.upstream import LearnedOptimizer, Optimizer

__all__ = ["GlobalLearnedOptimizer", "LearnedRuleState"]

PyTree = Any


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
    """A learned rule with accumulators and features of each tensor, and an MLP that they go into.

    A tensor whose Δ is exactly zero everywhere, on all workers, stays where it is: it was frozen
    in the local steps, and momenta of other rounds are not to move it.

    Args:
      features: the feature set; that of the class, with its gin bindings, if None.
      hidden_size: width of the MLP.
      hidden_layers: its number of hidden layers.
      implementation: how steps are computed, all with the same result: "auto", "plain",
        "blockwise" or "kernel"; see `learned_step`.

    Raises:
      ValueError: a size below 1, or an unknown implementation.
    """

    feature_set: ClassVar[type[Any]]
    """The class's feature set; theta's header has its arguments."""

    num_workers: int | None = None
    """The only K it works for, where its inputs are K worker deltas."""

    needs_worker_squares = False
    """Whether the rule needs the second moment over workers of their deltas."""

    def __init__(
        self, features: FeatureSet | None, hidden_size: int, hidden_layers: int, implementation: str
    ):
        self.implementation = require_choice("implementation", implementation, IMPLEMENTATIONS)
        self.features: FeatureSet = self.feature_set() if features is None else features
        self.hidden_size = require_at_least_one("hidden_size", hidden_size, "hidden units")
        self.hidden_layers = require_at_least_one("hidden_layers", hidden_layers, "hidden layers")

    @property
    def name(self) -> str:
        """The name of its class."""
        return type(self).__name__

    @property
    def needs_worker_deltas(self) -> bool:
        """Whether the rule needs `worker_deltas`, that is, K times the memory."""
        return self.num_workers is not None

    def hparams(self) -> dict[str, Any]:
        """The arguments that decide theta's shape and meaning, as they go into its header."""
        return {
            "hidden_size": self.hidden_size,
            "hidden_layers": self.hidden_layers,
            "features": dataclasses.asdict(self.features),  # type: ignore[call-overload]
        }

    @classmethod
    def from_hparams(cls, hparams: Mapping[str, Any]) -> Self:
        """The inverse of `hparams`."""
        sizes = dict(hparams)
        return cls(features=cls.feature_set(**sizes.pop("features")), **sizes)

    def require_no_absence(self) -> None:
        """Raises ValueError unless the rule can do without some of the workers."""

    def transformation(
        self, theta: PyTree, full_precision: bool = True, num_rounds: int | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """The rule that `theta` stands for, as an optax transformation of Δ.

        Its `update(delta, state, params, *, worker_deltas=None, worker_weights=None, **extra)`
        takes the mean Δ = weights before the round − weights after it, like the parameters; where
        `needs_worker_deltas`, the deltas of the K workers, [K, ...], and, where some may have been
        absent, their weights [K], which are 0 for these. It returns what is to be added to the
        parameters. Learning rates, schedules and weight decay can stand outside, in
        `optax.chain`.

        Args:
          theta: meta-parameters, a tree from `init` or `load_theta`.
          full_precision: see `in_full_precision`; it is about parameters of low precision.
          num_rounds: T, which a rule that steers γ heeds (see `Steering`); None: about 100.

        Raises:
          ValueError: a number of rounds below 1; by `update`: no parameters; worker deltas that are
            missing or of another K; absent workers with `absent_workers="refuse"`.
        """

        if num_rounds is not None:
            require_at_least_one("num_rounds", num_rounds, "rounds")

        def init(params: PyTree) -> Any:
            return with_num_rounds(self.start(params), num_rounds)

        def update(
            delta: PyTree, state: Any, params: PyTree = None, **extra: Any
        ) -> tuple[PyTree, Any]:
            return self.after_round(theta, delta, state, params, added=False, **extra)

        rule = optax.GradientTransformationExtraArgs(init, update)
        return in_full_precision(rule, full_precision)

    def opt_fn(self, theta: PyTree, is_training: bool = False) -> Optimizer:
        """The optimizer that `theta`, a tree, stands for, as an upstream `Optimizer`."""
        del is_training
        return _LearnedGlobalOptimizer(self, theta)

    def start(self, params: PyTree) -> Any:
        """The state before the first round of `params`, a tree of arrays."""
        accumulators = [self.features.init(param) for param in jax.tree.leaves(params)]
        trees = self._fields_of_trees(accumulators, jax.tree.structure(params))
        return LearnedRuleState(trees, jnp.zeros((), jnp.int32))

    def after_round(
        self,
        theta: PyTree,
        delta: PyTree,
        state: LearnedRuleState,
        params: PyTree,
        *,
        added: bool,
        worker_weights: jax.Array | None = None,
        **of_workers: PyTree,
    ) -> tuple[PyTree, LearnedRuleState]:
        """What `transformation`'s update computes, on parameters of at least float32.

        Args:
          theta: meta-parameters, a tree.
          delta: mean Δ, of the shapes of `params`.
          state: of the round before.
          params: W, a tree of arrays.
          added: return W' = W + the steps instead of the steps, which spares an array of W's size.
          worker_weights: [K].
          **of_workers: what else is known of the workers, of which a rule takes what it needs:
            `worker_deltas`, a tree of arrays [K, ...]; `worker_squares`, of the shapes of `params`.

        Returns:
          W' or the steps, of the shapes of `params`, and the new state.
        """
        treedef: Any = jax.tree.structure(params)
        deltas = treedef.flatten_up_to(delta)
        seen = self._seen_of_workers(treedef, worker_weights, **of_workers)
        time = self._time(state)
        accumulators = self._one_for_each_tensor(state.accumulators, treedef)
        new = [
            self._after_round(theta, *tensor, worker_weights, time, added=added)
            for tensor in zip(
                treedef.flatten_up_to(params), deltas, seen, accumulators, strict=True
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
        seen: jax.Array | None,
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
        gradients = self._gradient_inputs(delta, seen, worker_weights)
        accumulators = self.features.update(self._shifts(theta), accumulators, delta)
        tensor = (accumulators, weights, delta, gradients)
        return self._stepped(theta, tensor, time, added).astype(param.dtype), accumulators

    @abc.abstractmethod
    def _time(self, state: Any) -> jax.Array:
        """What the MLP is told of how far a run is, a vector."""

    @abc.abstractmethod
    def _stepped(self, theta: PyTree, tensor: tuple, time: jax.Array, added: bool) -> jax.Array:
        """The step of a tensor, as `learned_step` takes it, or what it comes to."""

    def _seen_of_workers(
        self, treedef: Any, worker_weights: jax.Array | None, **of_workers: PyTree
    ) -> list[Any]:
        """What the rule sees of the workers beside the mean Δ, for each tensor.

        Raises:
          ValueError: something that it needs is missing.
        """
        del worker_weights, of_workers
        return [None] * treedef.num_leaves

    def _gradient_inputs(
        self, delta: jax.Array, seen: jax.Array | None, worker_weights: jax.Array | None
    ) -> jax.Array:
        """The gradient inputs of a tensor, [n, *s]."""
        del seen, worker_weights
        return delta[None]

    def _shifts(self, theta: PyTree) -> PyTree:
        """The shifts of the decays."""
        return theta["features"]

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
