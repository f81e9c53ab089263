"""The Ada feature set: momentum, second moments and Adafactor statistics (LOpt-A, LAgg-A)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import gin
import jax
import jax.numpy as jnp
import numpy as np

from comm_lopt.optimizers.learned.features import (
    FeatureParts,
    View,
    all_dense,
    decayed_average,
    one_or_many,
    rows_of,
    stacked,
)

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
      momentum: averages of Δ, [3, *s].
      second_moment: averages of Δ², [1, *s].
      row: averages of mean Δ² over the largest axis, [3, *s without it]; for rank 0 and 1
        the averages of Δ² itself, [3, *s].
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

    accumulators: ClassVar[Any] = AdaAccumulators

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
        """F = 27 + n for the published numbers of decays, with n = `num_gradients`."""
        momenta, seconds = len(self.momentum_decays), len(self.second_moment_decays)
        return num_gradients + 1 + 2 * momenta + 2 * seconds + 6 * len(self.adafactor_decays)

    def init_theta(self) -> PyTree:
        """The shifts x of the decays, a tree of zeros: [D] for each kind of D decays."""
        return {
            field.name: jnp.zeros(len(getattr(self, field.name)), jnp.float32)
            for field in dataclasses.fields(self)
        }

    def init(self, param: jax.Array) -> AdaAccumulators:
        """Accumulators of a tensor [*s] at the first round: zeros."""
        # Like the parameter: sharded as it is, and varying where it varies.
        zeros = jnp.zeros_like(param, jnp.float32)
        count, row_shape, column = len(self.adafactor_decays), param.shape, None
        axes = factored_axes(param.shape)
        if axes is not None:
            second_largest, largest = axes
            row_shape = _without_axis(param.shape, largest)
            column_shape = _without_axis(param.shape, second_largest)
            column = jax.lax.full_like(param, 0, jnp.float32, (count, *column_shape))
        return AdaAccumulators(
            momentum=stacked(zeros, self.momentum_decays),
            second_moment=stacked(zeros, self.second_moment_decays),
            row=jax.lax.full_like(param, 0, jnp.float32, (count, *row_shape)),
            column=column,
        )

    def update(
        self, theta: PyTree, accumulators: AdaAccumulators, delta: jax.Array
    ) -> AdaAccumulators:
        """Accumulators after they took in the mean Δ, [*s]; `theta` is a tree, see `init_theta`."""
        momentum_decays = self.decays(theta, "momentum_decays")
        # A meta-learned decay may leave [0, 1]; squares must not be averaged with it then.
        second_decays = jnp.clip(self.decays(theta, "second_moment_decays"), 0.0, 1.0)
        factor_decays = jnp.clip(self.decays(theta, "adafactor_decays"), 0.0, 1.0)
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
        accumulators: AdaAccumulators,
        param: jax.Array,
        delta: jax.Array,
        gradients: jax.Array,
    ) -> jax.Array:
        """Features of every parameter, not yet normalised.

        Args:
          accumulators: after `update` with this round's Δ.
          param: the tensor, [*s].
          delta: mean Δ, [*s].
          gradients: the gradient inputs, [n, *s]: the mean Δ, or the K worker deltas.

        Returns:
          [F, *s] with F = `num_features(n)`, in the order above.
        """
        momentum, second_moment, row, column = accumulators
        axes = factored_axes(param.shape)
        if axes is None:
            rows = columns = row
            gradient_factor, momentum_factor = _unfactored(row)
        else:
            row_factor, column_factor = _factors(accumulators, axes)
            gradient_factor = momentum_factor = row_factor * column_factor
            full = (len(row), *param.shape)
            rows = jnp.broadcast_to(_along(row, axes[1]), full)
            columns = jnp.broadcast_to(_along(column, axes[0]), full)
        return jnp.concatenate(
            [
                *_elementwise(gradients, param[None], momentum, second_moment),
                delta[None] * gradient_factor,
                rows,
                columns,
                _factor_rsqrt(rows),
                _factor_rsqrt(columns),
                momentum * momentum_factor,
            ]
        )

    def parts(
        self,
        accumulators: AdaAccumulators,
        param: jax.Array,
        delta: jax.Array,
        gradients: jax.Array,
    ) -> FeatureParts:
        """The same [F, *s], taken apart by axes; arguments as for `features`."""
        momentum, second_moment, row, column = accumulators
        axes = factored_axes(param.shape)
        if axes is None:
            return self._unfactored_parts(accumulators, param, delta, gradients)
        view = View(param.shape, (min(axes), max(axes)))
        of = view.arrange
        inputs = _Inputs(
            gradients=of(one_or_many(gradients, delta)),
            param=of(param),
            momentum=of(momentum),
            second_moment=of(second_moment),
            delta=of(delta),
            factors=tuple(map(of, _factors(accumulators, axes))),
        )

        def dense(tile: _Inputs) -> list[jax.Array]:
            factor = tile.factors[0] * tile.factors[1]
            front = _elementwise(tile.gradients, tile.param, tile.momentum, tile.second_moment)
            return [*front, tile.delta * factor, tile.momentum * factor]

        # The row accumulators have no largest axis, the columns no second largest.
        first, second = (_along(row, axes[1]), _along(column, axes[0]))
        rows, columns = (of(jnp.concatenate([a, _factor_rsqrt(a)])) for a in (first, second))
        count, num = self.num_features(len(gradients)), len(row)
        start = count - 5 * num
        row_order, column_order = (
            np.concatenate([np.arange(at, at + num), np.arange(at + 2 * num, at + 3 * num)])
            for at in (start, start + num)
        )
        dense_order = np.concatenate([np.arange(start), np.arange(count - num, count)])
        if axes[0] < axes[1]:  # The largest axis is Y.
            return FeatureParts(
                view, inputs, dense, rows, columns, (dense_order, row_order, column_order)
            )
        return FeatureParts(
            view, inputs, dense, columns, rows, (dense_order, column_order, row_order)
        )

    def _unfactored_parts(
        self,
        accumulators: AdaAccumulators,
        param: jax.Array,
        delta: jax.Array,
        gradients: jax.Array,
    ) -> FeatureParts:
        momentum, second_moment, row, _ = accumulators
        view = rows_of(param.shape)
        arrays = (one_or_many(gradients, delta), param, momentum, second_moment, delta, row)

        def dense(tile: list[jax.Array]) -> list[jax.Array]:
            gradients, param, momentum, second_moment, delta, row = tile
            gradient_factor, momentum_factor = _unfactored(row)
            inverse_root = _factor_rsqrt(row)
            return [
                *_elementwise(gradients, param, momentum, second_moment),
                delta * gradient_factor,
                row,
                row,
                inverse_root,
                inverse_root,
                momentum * momentum_factor,
            ]

        order = all_dense(self.num_features(len(gradients)))
        return FeatureParts(view, list(map(view.arrange, arrays)), dense, None, None, order)

    def decays(self, theta: PyTree, name: str) -> jax.Array:
        """The decays in use of one kind, such as "momentum_decays": [D]."""
        initial = jnp.asarray(getattr(self, name), jnp.float32)
        return 1.0 - jnp.exp(jnp.log(1.0 - initial) + 10.0 * theta[name])


class _Inputs(NamedTuple):
    """What the dense features of a factored tensor are computed from; see `FeatureParts`."""

    gradients: jax.Array
    param: jax.Array
    momentum: jax.Array
    second_moment: jax.Array
    delta: jax.Array
    factors: tuple[jax.Array, ...]


def _without_axis(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _elementwise(
    gradients: jax.Array, param: jax.Array, momentum: jax.Array, second_moment: jax.Array
) -> list[jax.Array]:
    """The features that need no Adafactor statistics, in their order."""
    inverse_root = jax.lax.rsqrt(second_moment + _SECOND_MOMENT_EPSILON)
    return [gradients, param, momentum, second_moment, momentum * inverse_root, inverse_root]


def _factors(accumulators: AdaAccumulators, axes: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Adafactor's factors of rows and of columns, [3, *s] with size 1 along an axis each.

    Their product is the inverse root of the rank-1 estimate Δ² ≈ row · column / mean(row).
    """
    second_largest, largest = axes
    row = _along(accumulators.row, largest)
    row_mean = jnp.mean(row, axis=second_largest + 1, keepdims=True)
    column = _along(accumulators.column, second_largest)
    return _safe_rsqrt(row / (row_mean + _RATIO_EPSILON)), _safe_rsqrt(column)


def _unfactored(row: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What Δ and the momenta are multiplied by in a tensor of rank 0 or 1."""
    return (
        _safe_rsqrt(row + _RATIO_EPSILON),
        jax.lax.rsqrt(row + _UNFACTORED_MOMENTUM_EPSILON),
    )


def _along(averages: jax.Array, missing_axis: int) -> jax.Array:
    """[3, *s without an axis] as [3, *s] with size 1 there."""
    return jnp.expand_dims(averages, missing_axis + 1)


def _factor_rsqrt(x: jax.Array) -> jax.Array:
    return jax.lax.rsqrt(x + _FACTOR_EPSILON)


def _safe_rsqrt(x: jax.Array) -> jax.Array:
    return jax.lax.rsqrt(jnp.maximum(x, _RSQRT_FLOOR))
