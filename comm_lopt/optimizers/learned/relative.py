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
from comm_lopt.optimizers.learned.steered import SteeredLearnedOptimizer
from comm_lopt.optimizers.learned.steering import Steering
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
class LOptR(SteeredLearnedOptimizer):
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
        super().__init__(features, hidden_size, hidden_layers, implementation, steering)
        if self.hidden_size < 2:
            raise ValueError("hidden_size=1: a relative rule starts with 2 units in use; pass 8.")
        self.step_size: StepSize = ConstantAlpha() if step_size is None else step_size
        self.time = time
        self.learned_decays = learned_decays

    def hparams(self) -> dict[str, Any]:
        """The arguments that decide theta's shape and meaning, as they go into its header."""
        form = next(n for n, form in STEP_SIZES.items() if type(self.step_size) is form)
        fields = dataclasses.asdict(self.step_size)  # type: ignore[call-overload]
        relative = {"time": self.time, "learned_decays": self.learned_decays}
        return super().hparams() | relative | {"step_size": {"form": form, **fields}}

    @classmethod
    def from_hparams(cls, hparams: Mapping[str, Any]) -> Self:
        """The inverse of `hparams`."""
        fields = dict(hparams["step_size"])
        step_size = STEP_SIZES[fields.pop("form")](**fields)
        return super().from_hparams({**hparams, "step_size": step_size})

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
            **self._init_steering(momenta),
        }
        return theta | ({"features": self.features.init_theta()} if self.learned_decays else {})

    def _time(self, state: Any) -> jax.Array:
        return time_features(state.count) if self.time else jnp.zeros(0, jnp.float32)

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
