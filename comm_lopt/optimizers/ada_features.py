"""The Ada feature set: momentum, second moments and Adafactor statistics (LOpt-A, LAgg-A)."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import numpy as np

from comm_lopt.optimizers.features import decayed_average

__all__ = ["AdaAccumulators", "AdaFeatures", "factored_axes"]

PyTree = Any

# Constants of the published optimizer; a theta is only valid with the ones it was trained with.
_SQUARE_FLOOR = 1e-30
_SECOND_MOMENT_EPSILON = 1e-6
_FACTOR_EPSILON = 1e-8
_RATIO_EPSILON = 1e-9
_RSQRT_FLOOR = 1e-9
_UNFACTORED_MOMENTUM_EPSILON = 1e-6


class AdaAccumulators(NamedTuple):
    """Accumulators of one tensor of shape s.

    Attributes:
      momentum: averages of Δ, [*s, 3].
      second_moment: averages of Δ², [*s, 1].
      row: averages of mean Δ² over the largest axis, [*s without it, 3]; for rank 0 and 1
        the averages of Δ² itself, [*s, 3].
      column: the same over the second largest axis; None for rank 0 and 1.
    """

    momentum: jax.Array
    second_moment: jax.Array
    row: jax.Array
    column: Any


def factored_axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The second largest and the largest axis of a shape, or None below rank 2.

    Second moments of these two axes are kept as a row and a column (Adafactor, Shazeer and
    Stern 2018). Among equal sizes the later axis counts as larger.
    """
    if len(shape) < 2:
        return None
    order = np.argsort(shape)
    return int(order[-2]), int(order[-1])


@gin.configurable(module="comm_lopt")
@dataclasses.dataclass(frozen=True)
class AdaFeatures:
    """28 features of a parameter (Metz et al. 2022, "Practical tradeoffs", table 1).

    In this order: gradient inputs (n), parameter, momentum m (3), second moment v (1),
    m·rsqrt(v) (3), rsqrt(v) (1), Adafactor-normalised Δ (3), Adafactor rows (3) and columns
    (3), their rsqrt (3 + 3), m times the Adafactor factors (3): 27 + n in all.

    The decays are meta-learned: theta holds a shift x of each initial decay β0, and the decay
    in use is 1 − exp(log(1 − β0) + 10 x).

    Attributes:
      momentum_decays: initial β of the momenta.
      second_moment_decays: initial β of the second moments.
      adafactor_decays: initial β of the Adafactor statistics; as many as momenta, since the
        last features multiply the two.
    """

    momentum_decays: tuple[float, ...] = (0.9, 0.99, 0.999)
    second_moment_decays: tuple[float, ...] = (0.999,)
    adafactor_decays: tuple[float, ...] = (0.9, 0.99, 0.999)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            decays = tuple(getattr(self, field.name))
            object.__setattr__(self, field.name, decays)
            if not decays or not all(0.0 <= decay < 1.0 for decay in decays):
                raise ValueError(
                    f"{field.name}={decays}: decays lie in [0, 1) and there is at least one; "
                    "pass for example (0.9, 0.99, 0.999)."
                )
        if len(self.momentum_decays) != len(self.adafactor_decays):
            raise ValueError(
                f"{len(self.momentum_decays)} momentum_decays and {len(self.adafactor_decays)} "
                "adafactor_decays: the features multiply one by the other, so pass as many of "
                "the one as of the other."
            )

    def num_features(self, num_gradients: int) -> int:
        momenta, seconds = len(self.momentum_decays), len(self.second_moment_decays)
        return num_gradients + 1 + 2 * momenta + 2 * seconds + 6 * len(self.adafactor_decays)

    def init_theta(self) -> PyTree:
        return {
            field.name: jnp.zeros(len(getattr(self, field.name)))
            for field in dataclasses.fields(self)
        }

    def init(self, param: jax.Array) -> AdaAccumulators:
        shape = param.shape
        axes = factored_axes(shape)
        row_shape, column_shape = shape, None
        if axes is not None:
            second_largest, largest = axes
            row_shape = _without_axis(shape, largest)
            column_shape = _without_axis(shape, second_largest)
        num_factors = len(self.adafactor_decays)
        return AdaAccumulators(
            momentum=jnp.zeros((*shape, len(self.momentum_decays))),
            second_moment=jnp.zeros((*shape, len(self.second_moment_decays))),
            row=jnp.zeros((*row_shape, num_factors)),
            column=None if column_shape is None else jnp.zeros((*column_shape, num_factors)),
        )

    def update(
        self, theta: PyTree, accumulators: AdaAccumulators, delta: jax.Array
    ) -> AdaAccumulators:
        momentum_decays = self._decays(theta, "momentum_decays")
        # A meta-learned decay may leave [0, 1]; squares must not be averaged with it then.
        second_decays = jnp.clip(self._decays(theta, "second_moment_decays"), 0.0, 1.0)
        factor_decays = jnp.clip(self._decays(theta, "adafactor_decays"), 0.0, 1.0)
        squares = jnp.square(delta) + _SQUARE_FLOOR
        axes = factored_axes(delta.shape)
        if axes is None:
            row = decayed_average(factor_decays, accumulators.row, squares)
            column = None
        else:
            second_largest, largest = axes
            row = decayed_average(factor_decays, accumulators.row, squares.mean(largest))
            column = decayed_average(
                factor_decays, accumulators.column, squares.mean(second_largest)
            )
        return AdaAccumulators(
            momentum=decayed_average(momentum_decays, accumulators.momentum, delta),
            second_moment=decayed_average(
                second_decays, accumulators.second_moment, jnp.square(delta)
            ),
            row=row,
            column=column,
        )

    def features(
        self,
        theta: PyTree,
        accumulators: AdaAccumulators,
        param: jax.Array,
        delta: jax.Array,
        gradients: jax.Array,
    ) -> jax.Array:
        del theta
        momentum, second_moment, row, column = accumulators
        inverse_root = jax.lax.rsqrt(second_moment + _SECOND_MOMENT_EPSILON)
        axes = factored_axes(param.shape)
        if axes is None:
            row_feature = column_feature = row
            gradient_factor = _safe_rsqrt(row + _RATIO_EPSILON)
            momentum_factor = jax.lax.rsqrt(row + _UNFACTORED_MOMENTUM_EPSILON)
        else:
            second_largest, largest = axes
            # Δ² ≈ row · column / mean(row): the rank-1 estimate of Adafactor.
            mean_axis = second_largest - 1 if second_largest > largest else second_largest
            row_mean = jnp.mean(row, axis=mean_axis, keepdims=True)
            row_factor = _safe_rsqrt(row / (row_mean + _RATIO_EPSILON))
            gradient_factor = momentum_factor = jnp.expand_dims(
                row_factor, largest
            ) * jnp.expand_dims(_safe_rsqrt(column), second_largest)
            full = (*param.shape, row.shape[-1])
            row_feature = jnp.broadcast_to(jnp.expand_dims(row, largest), full)
            column_feature = jnp.broadcast_to(jnp.expand_dims(column, second_largest), full)
        return jnp.concatenate(
            [
                gradients,
                param[..., None],
                momentum,
                second_moment,
                momentum * inverse_root,
                inverse_root,
                delta[..., None] * gradient_factor,
                row_feature,
                column_feature,
                jax.lax.rsqrt(row_feature + _FACTOR_EPSILON),
                jax.lax.rsqrt(column_feature + _FACTOR_EPSILON),
                momentum * momentum_factor,
            ],
            axis=-1,
        )

    def _decays(self, theta: PyTree, name: str) -> jax.Array:
        initial = jnp.asarray(getattr(self, name), jnp.float32)
        return 1.0 - jnp.exp(jnp.log(1.0 - initial) + 10.0 * theta[name])


def _without_axis(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _safe_rsqrt(x: jax.Array) -> jax.Array:
    return jax.lax.rsqrt(jnp.maximum(x, _RSQRT_FLOOR))
