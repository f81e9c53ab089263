"""The small feature set without Ada statistics (LOpt, LAgg: the paper's ablation)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import gin
import jax
import jax.numpy as jnp

from comm_lopt.optimizers.learned.features import (
    FeatureParts,
    all_dense,
    decayed_average,
    one_or_many,
    rows_of,
    stacked,
)

__all__ = ["MomentumAccumulators", "MomentumFeatures"]

PyTree = Any


class MomentumAccumulators(NamedTuple):
    """Accumulators of one tensor of shape s.

    Attributes:
      momentum: averages of Δ, [6, *s].
    """

    momentum: jax.Array


@gin.configurable(module="comm_lopt")
@dataclasses.dataclass(frozen=True)
class MomentumFeatures:
    """Gradient inputs (n), parameter, and six momenta: 7 + n features.

    The features of upstream's `MLPLOpt`; the decays are fixed, so theta has none.

    Attributes:
      decays: β of the momenta.
    """

    accumulators: ClassVar[Any] = MomentumAccumulators

    decays: tuple[float, ...] = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)

    def __post_init__(self) -> None:
        object.__setattr__(self, "decays", tuple(self.decays))
        if not self.decays or not all(0.0 <= decay < 1.0 for decay in self.decays):
            raise ValueError(
                f"decays={self.decays}: decays lie in [0, 1) and there is at least one; "
                "pass for example (0.9, 0.99, 0.999)."
            )

    def num_features(self, num_gradients: int) -> int:
        """F = 7 + n for six decays, with n = `num_gradients`."""
        return num_gradients + 1 + len(self.decays)

    def init_theta(self) -> PyTree:
        """An empty tree."""
        return {}

    def init(self, param: jax.Array) -> MomentumAccumulators:
        """Accumulators of a tensor [*s] at the first round: zeros."""
        return MomentumAccumulators(stacked(jnp.zeros_like(param, jnp.float32), self.decays))

    def update(
        self, theta: PyTree, accumulators: MomentumAccumulators, delta: jax.Array
    ) -> MomentumAccumulators:
        """Accumulators after they took in the mean Δ, [*s]; `theta` is an empty tree."""
        del theta
        decays = jnp.asarray(self.decays, jnp.float32)
        return MomentumAccumulators(decayed_average(decays, accumulators.momentum, delta))

    def features(
        self,
        accumulators: MomentumAccumulators,
        param: jax.Array,
        delta: jax.Array,
        gradients: jax.Array,
    ) -> jax.Array:
        """Features of every parameter, not yet normalised: [F, *s] with F = `num_features(n)`.

        Arguments are those of `AdaFeatures.features`, a tensor [*s] and n gradient inputs.
        """
        del delta
        return jnp.concatenate([gradients, param[None], accumulators.momentum])

    def parts(
        self,
        accumulators: MomentumAccumulators,
        param: jax.Array,
        delta: jax.Array,
        gradients: jax.Array,
    ) -> FeatureParts:
        """The same [F, *s], taken apart; arguments as for `features`."""
        view = rows_of(param.shape)
        count = self.num_features(len(gradients))
        arrays = (one_or_many(gradients, delta), param, accumulators.momentum)
        inputs = [view.arrange(array) for array in arrays]
        return FeatureParts(view, inputs, list, None, None, all_dense(count))
