"""What a feature set is: the inputs of a learned optimizer's per-parameter MLP."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "TIME_SCALES",
    "FeatureParts",
    "FeatureSet",
    "View",
    "all_dense",
    "decayed_average",
    "one_or_many",
    "rows_of",
    "stacked",
    "time_features",
]

PyTree = Any

TIME_SCALES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000)
_LONGEST_ROW = 1024


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor of shape s seen as [A, X, Y]: two of its axes, and all others as one.

    Attributes:
      shape: s.
      axes: the two axes, ascending; None for a tensor without two special axes, which is cut
        into rows instead.
      row_length: Y if `axes` is None; divides the tensor's size.
    """

    shape: tuple[int, ...]
    axes: tuple[int, int] | None = None
    row_length: int = 1

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(A, X, Y)."""
        size = math.prod(self.shape)
        if self.axes is None:
            return 1, size // self.row_length, self.row_length
        x, y = (self.shape[axis] for axis in self.axes)
        return size // (x * y), x, y

    def arrange(self, array: jax.Array) -> jax.Array:
        """[n, *s], or [*s], with the two axes last; along either it may have size 1."""
        if self.axes is None:
            return array
        extra = array.ndim - len(self.shape)
        return jnp.transpose(array, (*range(extra), *(extra + axis for axis in self._order())))

    def of(self, arranged: jax.Array) -> jax.Array:
        """What `arrange` returned, as [n, A, X, Y]. Never moves anything in memory."""
        num = len(arranged) if arranged.ndim > len(self.shape) else 1
        if self.axes is None:
            return arranged.reshape(num, *self.sizes)
        return arranged.reshape(num, -1, *arranged.shape[-2:])

    def back(self, array: jax.Array) -> jax.Array:
        """[A, X, Y] as the tensor of shape s."""
        if self.axes is None:
            return array.reshape(self.shape)
        order = self._order()
        moved = array.reshape([self.shape[axis] for axis in order])
        return jnp.transpose(moved, np.argsort(order).tolist())

    def _order(self) -> tuple[int, ...]:
        special = self.axes or ()
        return (*(a for a in range(len(self.shape)) if a not in special), *special)


@dataclasses.dataclass(frozen=True)
class FeatureParts:
    """The features of a tensor, taken apart by the axes of a view that they vary along.

    All arrays are as `View.arrange` returns them, with size 1 along an axis of the two that they
    do not vary along. (XLA copies what is reshaped before a loop, so `View.of` is left to the
    loop.)

    Attributes:
      view: the view.
      inputs: a tree of arrays that the dense features are computed from.
      dense: from a tile [n, a, x, y] of each of `inputs` to the features that vary along both
        axes: a list of such tiles that together have n = Fd. It is elementwise, along n too:
        row j of a tile comes from row j of the inputs, or from their only row.
      along_x: the Fx features that do not vary along Y; None if there are none.
      along_y: the Fy features that do not vary along X; None if there are none.
      order: positions of the dense features, those along X and those along Y among all F
        features: integer arrays [Fd], [Fx], [Fy].
    """

    view: View
    inputs: PyTree
    dense: Callable[[PyTree], list[jax.Array]]
    along_x: jax.Array | None
    along_y: jax.Array | None
    order: tuple[np.ndarray, np.ndarray, np.ndarray]

    def mean_squares(self, dense_totals: jax.Array) -> jax.Array:
        """Mean over the tensor of the square of each of its F features, [F].

        Args:
          dense_totals: sums of the squares of the dense features, [Fd].
        """
        means = [dense_totals / jnp.float32(math.prod(self.view.sizes))]
        for along in (self.along_x, self.along_y):
            if along is not None:
                means.append(jnp.mean(jnp.square(along).reshape(len(along), -1), axis=1))
        return jnp.concatenate(means)[np.argsort(np.concatenate(self.order))]


def rows_of(shape: tuple[int, ...]) -> View:
    """A view of a tensor without special axes: rows as long as divides it, 1,024 at most."""
    size = math.prod(shape)
    longest = next(n for n in range(min(size, _LONGEST_ROW), 0, -1) if size % n == 0)
    return View(shape, None, longest)


def all_dense(num_features: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `order` of `FeatureParts` where every feature is dense."""
    none = np.arange(0)
    return np.arange(num_features), none, none


def one_or_many(gradients: jax.Array, delta: jax.Array) -> jax.Array:
    """The gradient inputs [n, *s], or where there is one, the mean Δ that it is, [*s].

    It spares the copy that XLA makes of an array that is given an axis before a loop.
    """
    return delta if len(gradients) == 1 else gradients


def stacked(array: jax.Array, decays: Sequence[float]) -> jax.Array:
    """An array of shape s once for each of D decays, [D, *s]."""
    return jnp.broadcast_to(array, (len(decays), *array.shape))


class FeatureSet(Protocol):
    """Accumulators of one tensor and the features that they give each of its parameters.

    A tensor has shape `s` of any rank. All arrays are float32.

    Attributes:
      accumulators: the class of a tensor's accumulators, a named tuple of arrays; None stands
        where a tensor of its rank has no use for one.
    """

    accumulators: ClassVar[Any]

    def num_features(self, num_gradients: int) -> int:
        """Number of features F of a parameter, time features left out.

        Args:
          num_gradients: 1 for the mean Δ, K for the worker deltas.
        """

    def init_theta(self) -> PyTree:
        """Meta-parameters of the features (shifts of the decays), or an empty dict."""

    def init(self, param: jax.Array) -> PyTree:
        """Accumulators of a tensor at the first round: zeros."""

    def update(self, theta: PyTree, accumulators: PyTree, delta: jax.Array) -> PyTree:
        """Accumulators after they took in the mean Δ of shape s."""

    def features(
        self, accumulators: PyTree, param: jax.Array, delta: jax.Array, gradients: jax.Array
    ) -> jax.Array:
        """Features of every parameter, not yet normalised.

        Args:
          accumulators: after `update` with this round's Δ.
          param: the tensor, shape s.
          delta: mean Δ, shape s.
          gradients: the gradient inputs, [n, *s]: the mean Δ, or the K worker deltas.

        Returns:
          [F, *s] with F = `num_features(n)`.
        """

    def parts(
        self, accumulators: PyTree, param: jax.Array, delta: jax.Array, gradients: jax.Array
    ) -> FeatureParts:
        """The same features, taken apart. Arguments as for `features`."""


def time_features(iteration: jax.Array) -> jax.Array:
    """tanh(t / x − 1) for the eleven time scales x = 1, 3, 10 ... 100000, at round t: [11]."""
    scales = jnp.asarray(TIME_SCALES, jnp.float32)
    return jnp.tanh(iteration.astype(jnp.float32) / scales - 1.0)


def decayed_average(decays: jax.Array, average: jax.Array, value: jax.Array) -> jax.Array:
    """a ← β a + (1 − β) x for each of D decays.

    Args:
      decays: β, [D].
      average: a, [D, *s].
      value: x, shape s.

    Returns:
      The new averages, [D, *s].
    """
    decays = jnp.expand_dims(decays, tuple(range(1, average.ndim)))
    return decays * average + (1.0 - decays) * value[None]
