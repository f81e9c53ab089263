"""How long the step of a relative rule is: α, in units of RMS(Δ)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol

import gin
import jax
import jax.numpy as jnp

from comm_lopt.checks import require_at_least_one, require_range
from comm_lopt.optimizers.learned.per_parameter_mlp import apply_to_vector, init_mlp
from comm_lopt.optimizers.learned.relative_features import root_mean_square

__all__ = [
    "STEP_SIZES",
    "AlphaFromStatistics",
    "ConstantAlpha",
    "LearnedAlpha",
    "MomentumAlpha",
    "StepSize",
    "TensorStatistics",
]

PyTree = Any

_TINY = 1e-30
# Shifts of logarithms are learned at the pace of the MLP's weights, of which they are tenths.
_PACE = 10.0


class TensorStatistics:
    """Numbers about a tensor and its Δ, none of which changes where both are scaled.

    Args:
      momentum: averages of Δ, [D, *s].
      decays: their β, [D].
      param: the tensor, [*s].
      delta: mean Δ, [*s].
      gradients: the gradient inputs, [n, *s], of which the first is Δ.
    """

    def __init__(
        self,
        momentum: jax.Array,
        decays: jax.Array,
        param: jax.Array,
        delta: jax.Array,
        gradients: jax.Array,
    ):
        squares = jnp.mean(jnp.square(momentum.reshape(len(momentum), -1)), axis=1)
        products = jnp.mean((momentum * delta[None]).reshape(len(momentum), -1), axis=1)
        size = root_mean_square(delta)
        sizes = jnp.sqrt(squares)
        self.log_momentum = _log_ratio(sizes / (1.0 - decays), size)
        """log(RMS(Σ_i β^i Δ_{t−i}) / RMS(Δ_t)) for each β: [D]."""
        self.alignment = products / jnp.maximum(sizes * size, _TINY)
        """The cosine of the angle between each momentum and Δ: [D]."""
        self.log_weights = _log_ratio(size, root_mean_square(param))
        """log(RMS(Δ) / RMS(p)), between −10 and 10."""
        others = [_log_ratio(root_mean_square(other), size) for other in gradients[1:2]]
        self.log_spread = jnp.stack(others) if others else jnp.zeros(0, jnp.float32)
        """log(RMS(spread over workers) / RMS(Δ)), [1], where it is known, or [0]."""

    def stacked(self) -> jax.Array:
        """All of them, each of a size about 1: [2 D + 1 or 2 D + 2]."""
        return jnp.concatenate(
            [self.log_momentum, self.alignment, self.log_weights[None] / 4.0, self.log_spread]
        )


class StepSize(Protocol):
    """α of a tensor; a frozen dataclass, whose fields are in theta's header."""

    def init(self, key: jax.Array, num_momenta: int, num_statistics: int) -> PyTree:
        """Its part of theta."""

    def alpha(self, theta: PyTree, statistics: TensorStatistics) -> jax.Array:
        """α: a scalar above 0."""


@gin.configurable(module="comm_lopt")
@dataclasses.dataclass(frozen=True)
class ConstantAlpha:
    """α is a number.

    Attributes:
      value: it.
    """

    value: float = 2.0

    def __post_init__(self) -> None:
        _check(self, value=0.0)

    def init(self, key: jax.Array, num_momenta: int, num_statistics: int) -> PyTree:
        """No part of theta: an empty tree."""
        del key, num_momenta, num_statistics
        return {}

    def alpha(self, theta: PyTree, statistics: TensorStatistics) -> jax.Array:
        """The number, a scalar."""
        del theta, statistics
        return jnp.float32(self.value)


@gin.configurable(module="comm_lopt")
@dataclasses.dataclass(frozen=True)
class LearnedAlpha:
    """α = α0 · exp(10 x) with x in theta, 0 at first.

    Attributes:
      initial: α0.
    """

    initial: float = 2.0

    def __post_init__(self) -> None:
        _check(self, initial=0.0)

    def init(self, key: jax.Array, num_momenta: int, num_statistics: int) -> PyTree:
        """Its part of theta, a tree: x, a scalar of 0."""
        del key, num_momenta, num_statistics
        return {"shift": jnp.zeros((), jnp.float32)}

    def alpha(self, theta: PyTree, statistics: TensorStatistics) -> jax.Array:
        """α0 · exp(10 x), a scalar."""
        del statistics
        return self.initial * jnp.exp(_PACE * theta["shift"])


@gin.configurable(module="comm_lopt")
@dataclasses.dataclass(frozen=True)
class AlphaFromStatistics:
    """α between two bounds, by a small MLP of the tensor's statistics.

    α = √(low · high) · exp(½ log(high / low) · tanh(MLP(statistics))), at first near the middle.

    Attributes:
      low: the smallest α.
      high: the largest.
      hidden_size: width of the one hidden layer.
    """

    low: float = 1.0
    high: float = 4.0
    hidden_size: int = 8

    def __post_init__(self) -> None:
        _check(self, low=0.0, high=self.low)
        require_at_least_one("hidden_size", self.hidden_size, "hidden units")

    def init(self, key: jax.Array, num_momenta: int, num_statistics: int) -> PyTree:
        """Its part of theta, a tree: an MLP from [num_statistics] to one number."""
        del num_momenta
        theta = init_mlp(key, num_statistics, self.hidden_size, 1, num_outputs=1)
        return {**theta, "w1": 0.01 * theta["w1"]}

    def alpha(self, theta: PyTree, statistics: TensorStatistics) -> jax.Array:
        """α between `low` and `high`, a scalar."""
        (out,) = jnp.tanh(apply_to_vector(theta, statistics.stacked()))
        middle, half = math.sqrt(self.low * self.high), 0.5 * math.log(self.high / self.low)
        return middle * jnp.exp(half * out)


@gin.configurable(module="comm_lopt")
@dataclasses.dataclass(frozen=True)
class MomentumAlpha:
    """α = α0 · exp(10 x) · Π_j (RMS(Σ_i β_j^i Δ_{t−i}) / RMS(Δ_t))^(a_j), within bounds.

    With one exponent of 1 and the others 0 a step has the size of heavy-ball momentum, which
    grows where rounds agree and shrinks where they undo each other.

    Attributes:
      initial: α0.
      exponents: a at first, one for each momentum.
      low: the smallest α.
      high: the largest.
    """

    initial: float = 1.0
    exponents: tuple[float, ...] = (0.5, 0.0, 0.0)
    low: float = 0.1
    high: float = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "exponents", tuple(self.exponents))
        _check(self, initial=0.0, low=0.0, high=self.low)

    def init(self, key: jax.Array, num_momenta: int, num_statistics: int) -> PyTree:
        """Its part of theta, a tree: x, a scalar, and what is added to a, [D] for D momenta; all 0.

        Raises:
          ValueError: there are not as many exponents as momenta.
        """
        del key, num_statistics
        if len(self.exponents) != num_momenta:
            raise ValueError(
                f"{len(self.exponents)} exponents of {num_momenta} momenta; pass one for each."
            )
        zeros = jnp.zeros(num_momenta, jnp.float32)
        return {"shift": jnp.zeros((), jnp.float32), "exponents": zeros}

    def alpha(self, theta: PyTree, statistics: TensorStatistics) -> jax.Array:
        """α between `low` and `high`, a scalar."""
        exponents = jnp.asarray(self.exponents, jnp.float32) + _PACE * theta["exponents"]
        log = jnp.dot(exponents, statistics.log_momentum) + _PACE * theta["shift"]
        return jnp.clip(self.initial * jnp.exp(log), self.low, self.high)


STEP_SIZES: Mapping[str, type[Any]] = {
    "constant": ConstantAlpha,
    "learned": LearnedAlpha,
    "statistics": AlphaFromStatistics,
    "momentum": MomentumAlpha,
}
"""Every form of α by the name that it has in theta's header."""


def _check(form: Any, **above: float) -> None:
    for name, low in above.items():
        require_range(name, getattr(form, name), low, exclude_low=True)


def _log_ratio(number: jax.Array, other: jax.Array) -> jax.Array:
    """log(x / y), between −10 and 10; 0 where both are 0."""
    ratio = jnp.log(jnp.maximum(number, _TINY)) - jnp.log(jnp.maximum(other, _TINY))
    return jnp.clip(ratio, -10.0, 10.0)
