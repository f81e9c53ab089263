"""Ada features in units of Δ, so that they do not change where Δ and the tensor are scaled."""

from __future__ import annotations

import dataclasses

import gin
import jax
import jax.numpy as jnp

from comm_lopt.optimizers.learned.ada_features import AdaAccumulators, AdaFeatures, factored_axes
from comm_lopt.optimizers.learned.features import FeatureParts

__all__ = ["RelativeAdaFeatures", "root_mean_square"]


def root_mean_square(array: jax.Array) -> jax.Array:
    """√mean(x²) of a tensor: a scalar."""
    return jnp.sqrt(jnp.mean(jnp.square(array)))


@gin.configurable(module="comm_lopt")
@dataclasses.dataclass(frozen=True)
class RelativeAdaFeatures(AdaFeatures):
    """The 28 features of `AdaFeatures`, of a tensor whose unit of length is RMS(Δ).

    With s = RMS(Δ) over the tensor they are the Ada features of Δ/s, p/s and accumulators that
    were fed such: averages of Δ divided by s, those of Δ² by s². The small constants of Ada
    features are so many parts of Δ, and features of c·Δ and c·p are those of Δ and p.

    Attributes are those of `AdaFeatures`.
    """

    def features(
        self,
        accumulators: AdaAccumulators,
        param: jax.Array,
        delta: jax.Array,
        gradients: jax.Array,
    ) -> jax.Array:
        """[F, *s]: those of Δ/s, p/s and the accumulators in these units; arguments as there."""
        inverse = _inverse_unit(delta)
        scaled = _scaled(accumulators, inverse)
        return super().features(scaled, param * inverse, delta * inverse, gradients * inverse)

    def parts(
        self,
        accumulators: AdaAccumulators,
        param: jax.Array,
        delta: jax.Array,
        gradients: jax.Array,
    ) -> FeatureParts:
        """The same [F, *s], taken apart by the axes that they vary along."""
        inverse = _inverse_unit(delta)
        scaled = _scaled(accumulators, inverse)
        if factored_axes(param.shape) is None:
            return super().parts(scaled, param * inverse, delta * inverse, gradients * inverse)
        # What is as large as the tensor is scaled tile by tile.
        large = accumulators._replace(row=scaled.row, column=scaled.column)
        parts = super().parts(large, param, delta, gradients)
        unscaled_dense = parts.dense

        def dense(tile: tuple) -> list[jax.Array]:
            inputs, inverse = tile
            return unscaled_dense(
                inputs._replace(
                    gradients=inputs.gradients * inverse,
                    param=inputs.param * inverse,
                    momentum=inputs.momentum * inverse,
                    second_moment=inputs.second_moment * jnp.square(inverse),
                    delta=inputs.delta * inverse,
                )
            )

        inputs = (parts.inputs, inverse.reshape([1] * param.ndim))
        return dataclasses.replace(parts, inputs=inputs, dense=dense)


def _inverse_unit(delta: jax.Array) -> jax.Array:
    """1 / RMS(Δ); 1 where Δ is 0 everywhere, and nothing moves."""
    size = root_mean_square(delta)
    return 1.0 / jnp.where(size > 0, size, 1.0)


def _scaled(accumulators: AdaAccumulators, inverse: jax.Array) -> AdaAccumulators:
    momentum, second_moment, row, column = accumulators
    squared = jnp.square(inverse)
    return AdaAccumulators(
        momentum * inverse,
        second_moment * squared,
        row * squared,
        None if column is None else column * squared,
    )
