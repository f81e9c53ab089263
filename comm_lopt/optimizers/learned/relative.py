"""Learned rules whose step has the size of Δ: LOptR, and LAggR with statistics of the workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import gin
import jax
import jax.numpy as jnp

from comm_lopt.optimizers.learned.features import TIME_SCALES, time_features
from comm_lopt.optimizers.learned.implementations import learned_step
from comm_lopt.optimizers.learned.per_parameter_mlp import init_mlp
from comm_lopt.optimizers.learned.relative_features import RelativeAdaFeatures, root_mean_square
from comm_lopt.optimizers.learned.rule import GlobalLearnedOptimizer, LearnedRuleState
from comm_lopt.optimizers.learned.steering import SteeredRuleState, Steering, alignment
from comm_lopt.optimizers.learned.step_size import (
    STEP_SIZES,
    ConstantAlpha,
    StepSize,
    TensorStatistics,
)
from comm_lopt.tasks.averages import mean_of_squares

__all__ = ["LAggR", "LOptR"]

PyTree = Any

# Weight of what is random in the initial direction, beside Δ and its momentum.
_RANDOM_PART = 0.1
_LARGEST_RATIO = 10.0
_TINY = 1e-12
_SMALLEST = 1e-30


@gin.configurable(module="comm_lopt")
class LOptR(GlobalLearnedOptimizer):
    """Meta-learned rule p ← p − α · RMS(Δ) · u / RMS(u), where u = MLP(features of p).

    RMS is over the tensor. The features are Ada features in units of RMS(Δ), so that the rule is
    equivariant: Δ and p times c give steps times c. What sets the size of Δ, the local learning
    rate, sets that of the steps; schedules and weight decay stand outside, in optax. (Normalised
    features and direction: Moudgil et al. 2025, "Celo2".)

    Theta is {"mlp": weights, "step_size": what α needs, "steering": what steering needs, if there
    is any, "features": shifts of the decays, if these are learned}. It starts as a step along Δ and
    its first momentum, near SlowMo's.

    Args:
      features: the feature set; `RelativeAdaFeatures()` if None.
      hidden_size: width of the MLP, at least 2.
      hidden_layers: its number of hidden layers.
      step_size: α; see `step_size`. `ConstantAlpha()` if None.
      steering: how γ is steered, `Steering()` if True; see there, and `local_rate_of` for a loop of
        one's own. False leaves γ as it is, as a task without local steps wants it.
      time: whether the MLP is told the number of rounds done, as published rules are.
      learned_decays: whether the decays of the accumulators are meta-learned.
      implementation: see `GlobalLearnedOptimizer`.

    Raises:
      ValueError: a size below 1 (a width below 2), or an unknown implementation.
    """

    feature_set = RelativeAdaFeatures
    num_gradients = 1

    def __init__(
        self,
        features: RelativeAdaFeatures | None = None,
        hidden_size: int = 8,
        hidden_layers: int = 2,
        step_size: StepSize | None = None,
        steering: Steering | bool = True,
        time: bool = False,
        learned_decays: bool = False,
        implementation: str = "auto",
    ):
        super().__init__(features, hidden_size, hidden_layers, implementation)
        if self.hidden_size < 2:
            raise ValueError("hidden_size=1: a relative rule starts with 2 units in use; pass 8.")
        self.step_size: StepSize = ConstantAlpha() if step_size is None else step_size
        self.steering = Steering() if steering is True else steering or None
        self.time = time
        self.learned_decays = learned_decays

    def hparams(self) -> dict[str, Any]:
        """The arguments that decide theta's shape and meaning, as they go into its header."""
        form = next(n for n, form in STEP_SIZES.items() if type(self.step_size) is form)
        fields = dataclasses.asdict(self.step_size)  # type: ignore[call-overload]
        relative = {"time": self.time, "learned_decays": self.learned_decays}
        steering = False if self.steering is None else dataclasses.asdict(self.steering)
        forms = {"step_size": {"form": form, **fields}, "steering": steering}
        return super().hparams() | relative | forms

    @classmethod
    def from_hparams(cls, hparams: Mapping[str, Any]) -> Self:
        """The inverse of `hparams`."""
        fields = dict(hparams["step_size"])
        step_size = STEP_SIZES[fields.pop("form")](**fields)
        steering = hparams["steering"] and Steering(**hparams["steering"])
        return super().from_hparams({**hparams, "step_size": step_size, "steering": steering})

    def init(self, key: jax.Array) -> PyTree:
        """Initial theta, in which u is Δ and its first momentum, and a little that is random.

        Args:
          key: random key.

        Returns:
          A tree of arrays: the MLP, what α and steering learn, and shifts of decays if they do.
        """
        mlp_key, size_key = jax.random.split(key)
        num_features = self.features.num_features(self.num_gradients)
        num_inputs = num_features + (len(TIME_SCALES) if self.time else 0)
        mlp = init_mlp(mlp_key, num_inputs, self.hidden_size, self.hidden_layers, num_outputs=1)
        momenta = len(self.features.momentum_decays)  # type: ignore[attr-defined]
        statistics = 2 * momenta + 1 + (self.num_gradients > 1)
        theta = {
            "mlp": _along_momentum(mlp, (0, self.num_gradients + 1)),
            "step_size": self.step_size.init(size_key, momenta, statistics),
        }
        if self.steering is not None:
            theta["steering"] = self.steering.init(momenta)
        return theta | ({"features": self.features.init_theta()} if self.learned_decays else {})

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
            return super(LOptR, self).after_round(
                theta, delta, state, params, added=added, **from_round
            )

        if self.steering is None:
            return go_on(state, params)
        plain = LearnedRuleState(state.accumulators, state.count)

        def undo(plain: LearnedRuleState, params: PyTree) -> tuple[PyTree, LearnedRuleState]:
            back = jax.tree.map(
                lambda old, w: jnp.where(step_undone, old, w), state.previous, params
            )
            if not added:
                back = jax.tree.map(jnp.subtract, back, params)
            return back, plain._replace(count=plain.count + 1)

        treedef: Any = jax.tree.structure(params)
        deltas = [jnp.asarray(d, jnp.float32) for d in treedef.flatten_up_to(delta)]
        value, start_value = (
            None if loss is None else jnp.asarray(loss, jnp.float32)
            for loss in (value, start_value)
        )
        undone, step_undone = self.steering.undoes(state, deltas, value, start_value)
        out, new = jax.lax.cond(undone, undo, go_on, plain, params)
        momenta = treedef.flatten_up_to(state.accumulators.momentum)
        aligned = alignment(deltas, momenta)
        steered = self.steering.after(theta["steering"], state, aligned, value, undone, start_value)
        rounds_undone = state.rounds_undone + undone.astype(jnp.int32)
        previous = jax.tree.map(lambda old, w: jnp.where(undone, old, w), state.previous, params)
        return out, SteeredRuleState(
            new.accumulators, new.count, *steered, rounds_undone, previous, state.num_rounds
        )

    def _time(self, count: jax.Array) -> jax.Array:
        return time_features(count) if self.time else jnp.zeros(0, jnp.float32)

    def _shifts(self, theta: PyTree) -> PyTree:
        return theta["features"] if self.learned_decays else self.features.init_theta()

    def _stepped(self, theta: PyTree, tensor: tuple, time: jax.Array, added: bool) -> jax.Array:
        accumulators, param, delta, gradients = tensor
        direction = learned_step(
            self.implementation, self.features, theta["mlp"], tensor, time, lambda u: u
        )
        decays = self.features.decays(self._shifts(theta), "momentum_decays")  # type: ignore[attr-defined]
        statistics = TensorStatistics(accumulators.momentum, decays, param, delta, gradients)
        alpha = self.step_size.alpha(theta["step_size"], statistics)
        size = alpha * root_mean_square(delta)
        step = -(size / jnp.maximum(root_mean_square(direction), _TINY)) * direction
        return param + step if added else step


@gin.configurable(module="comm_lopt")
class LAggR(LOptR):
    """LOptR that also sees how much the workers' deltas Δ_k differ: any K, any of them absent.

    Further inputs of the MLP are the standard deviation σ of Δ_k over the workers, and the mean
    over it, Δ/σ within ±10. Both come from the mean and from the second moment Σ_k w_k Δ_k² /
    Σ_k w_k, so that a round takes one all-reduce of the size of the weights more, whatever K is.

    Args:
      **arguments: see `LOptR`.
    """

    needs_worker_squares = True
    num_gradients = 3

    def __init__(self, features: RelativeAdaFeatures | None = None, **arguments: Any):
        super().__init__(features, **arguments)

    def _seen_of_workers(
        self,
        treedef: Any,
        worker_weights: jax.Array | None,
        worker_squares: PyTree = None,
        worker_deltas: PyTree = None,
        **of_workers: PyTree,
    ) -> list[Any]:
        del of_workers
        if worker_squares is not None:
            return treedef.flatten_up_to(worker_squares)
        if worker_deltas is None:
            raise ValueError(
                f"{self.name} needs the second moment of the workers' deltas, and none is given; "
                "build the task family with LocalSGDTaskFamily(..., worker_squares=True), or in a "
                "loop of your own pass update(..., worker_deltas=...) or worker_squares=..."
            )
        return treedef.flatten_up_to(mean_of_squares(worker_deltas, worker_weights))

    def _gradient_inputs(
        self, delta: jax.Array, seen: jax.Array | None, worker_weights: jax.Array | None
    ) -> jax.Array:
        del worker_weights
        squares = jnp.asarray(seen, jnp.float32)
        spread = jnp.sqrt(jnp.maximum(squares - jnp.square(delta), 0.0))
        # Δ/σ within bounds, which rounding of a σ of 0 does not change.
        ratio = delta / jnp.maximum(jnp.maximum(spread, jnp.abs(delta) / _LARGEST_RATIO), _SMALLEST)
        # Of the size of Δ, as gradient inputs are.
        return jnp.stack([delta, spread, root_mean_square(delta) * ratio])


def _along_momentum(mlp: PyTree, features: tuple[int, ...]) -> PyTree:
    """The MLP with two units a layer that hand on the sum of some features, ± for its sign."""
    last = len(mlp) // 2 - 1
    through = jnp.asarray([1.0, -1.0])
    new = dict(mlp)
    first = mlp["w0"].at[:, :2].set(0.0)
    new["w0"] = first.at[jnp.asarray(features), :2].set(through)
    for layer in range(1, last):
        new[f"w{layer}"] = mlp[f"w{layer}"].at[:, :2].set(0.0).at[:2, :2].set(jnp.eye(2))
    new[f"w{last}"] = (_RANDOM_PART * mlp[f"w{last}"]).at[:2, 0].set(through)
    return new
