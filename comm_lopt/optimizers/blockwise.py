"""The learned update in blocks of a few thousand parameters, so that nothing leaves the cache.

The plain update (`apply_mlp` on `features`) writes F features and three layers of activations of
every parameter to memory. Here the first layer's product W x is taken apart by what the features
x vary along, in the view [A, X, Y] of a tensor:

  W x  =  W_dense x_dense[a, x, y]  +  W_x x_x[a, x]  +  W_y x_y[a, y],

of which the second and third are small products, added by broadcasting. (Of the 28 Ada features
of a matrix 12 vary along one axis only.) The rest is done tile by tile, twice: once for the mean
squares by which features are divided, and once for the step. The tiles' features are made twice,
which costs less than to keep them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from comm_lopt.optimizers.features import FeatureParts
from comm_lopt.optimizers.per_parameter_mlp import after_first_layer, folded_layers

__all__ = ["blockwise_update", "mean_squares", "tile_shape"]

PyTree = Any

# Parameters in a tile. Few enough that its activations stay in cache, enough to share between
# cores; large tensors are seldom mapped over several theta.
_TILE = 4096
_LARGE_TENSOR, _LARGE_TILE = 1 << 17, 16384
# Tiles in one turn of the loop. XLA's CPU backend writes slices on one core, but two tiles that
# do not depend on each other on two.
_TILES_AT_ONCE = 2


def blockwise_update(
    theta: PyTree,
    parts: FeatureParts,
    time: jax.Array,
    step: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    param: jax.Array,
) -> jax.Array:
    """The new values of a tensor.

    Args:
      theta: weights of the MLP, from `init_mlp`.
      parts: the features.
      time: time features, [11].
      step: from parameters, direction and log-magnitude, all of one shape, to new parameters.
      param: the tensor, shape s.

    Returns:
      What `step` returns, shape s.
    """
    first, *others = folded_layers(theta, mean_squares(parts), time)
    dense, for_x, for_y = (first.weights[:, order] for order in parts.order)
    shared, along_y = first.bias[..., None, None], parts.along_y
    tilings = _tilings(parts)
    if along_y is not None and parts.view.sizes[0] == 1:
        # All tiles add the same along Y. One array of a tile's shape is added faster than rows.
        shared = shared + _product(for_y, parts.view.of(along_y))
        shared = jnp.broadcast_to(shared, (len(shared), 1, tilings[0].rows, shared.shape[-1]))
        along_y = None
    everything = (parts.inputs, parts.along_x, along_y, parts.view.arrange(param))

    def one_tile(tile: PyTree) -> jax.Array:
        inputs, along_x, along_y, (values,) = tile
        hidden = (dense @ _stacked(parts.dense(inputs))).reshape(-1, *values.shape)
        for weights, along in ((for_x, along_x), (for_y, along_y)):
            if along is not None:
                hidden = hidden + _product(weights, along)
        hidden = hidden + shared[:, :, : values.shape[1]]
        direction, magnitude = after_first_layer(others, jax.nn.relu(hidden))
        return step(values, direction, magnitude)

    pieces = [_each(tiling, everything, one_tile) for tiling in tilings]
    if len(pieces) > 1:
        pieces = [jnp.concatenate([piece.reshape(-1, piece.shape[-1]) for piece in pieces])]
    return parts.view.back(pieces[0].reshape(parts.view.sizes))


def mean_squares(parts: FeatureParts) -> jax.Array:
    """Mean over a tensor of the square of each of its F features, [F]."""
    totals = jnp.zeros(len(parts.order[0]))
    for tiling in _tilings(parts):

        def add_tile(sums: jax.Array, i: Any, tiling: Any = tiling) -> tuple[jax.Array, None]:
            features = parts.dense(tiling.take(parts.inputs, i))
            squares = [jnp.sum(jnp.square(f), axis=(1, 2, 3)) for f in features]
            return sums + jnp.concatenate(squares), None

        if tiling.number == 1:
            totals, _ = add_tile(totals, 0)
        else:
            numbers = jnp.arange(tiling.number)
            totals, _ = jax.lax.scan(add_tile, totals, numbers, unroll=_TILES_AT_ONCE)
    return parts.mean_squares(totals)


def tile_shape(sizes: tuple[int, int, int], target: int) -> tuple[int, int]:
    """(a, x): a tile is [a, x, Y], of about `target` parameters; a > 1 only where x = X.

    a divides A, and x divides X where A > 1.
    """
    num_a, num_x, num_y = sizes
    if num_x * num_y <= target:
        return _largest_divisor(num_a, target // (num_x * num_y)), num_x
    wanted = max(1, target // num_y)
    divisor = _largest_divisor(num_x, wanted)
    return 1, divisor if num_a > 1 or 2 * divisor > wanted else wanted


def _stacked(features: list[jax.Array]) -> jax.Array:
    """Features [n, a, x, y] one after another: [Fd, a·x·y]."""
    # XLA's CPU backend writes slices in place three times faster than it concatenates, if
    # nothing is done to the array before it is used.
    size = features[0][0].size
    out = jnp.zeros((sum(map(len, features)), size))
    start = 0
    for feature in features:
        out = jax.lax.dynamic_update_slice_in_dim(out, feature.reshape(-1, size), start, 0)
        start += len(feature)
    return out


def _product(weights: jax.Array, inputs: jax.Array) -> jax.Array:
    """[out, in] times [in, a, x, y]."""
    flat = weights @ inputs.reshape(len(inputs), -1)
    return flat.reshape(-1, *inputs.shape[1:])


class _Tiling(NamedTuple):
    """Tiles of one shape that cover all or some of a tensor.

    Attributes:
      number: how many there are.
      rows: x; a tile is [a, x, Y].
      take: from a tree of arranged arrays and i to tile i of each, [n, a, x, Y]; where an array
        has size 1, so has the tile.
    """

    number: int
    rows: int
    take: Callable[[PyTree, Any], PyTree]


def _tilings(parts: FeatureParts) -> list[_Tiling]:
    """The tiles of a tensor; where rows are left over, a smaller one for these."""
    view = parts.view
    num_a, num_x, num_y = view.sizes
    large = num_a * num_x * num_y >= _LARGE_TENSOR
    a, x = tile_shape(view.sizes, _LARGE_TILE if large else _TILE)
    per_a, left = divmod(num_x, x)

    def tile(tree: PyTree, start: tuple[Any, Any], size: tuple[int, int]) -> PyTree:
        def one(array: jax.Array) -> jax.Array:
            array = view.of(array)
            for axis in (1, 2):
                if array.shape[axis] > 1:
                    array = jax.lax.dynamic_slice_in_dim(
                        array, start[axis - 1], size[axis - 1], axis
                    )
            return array

        return jax.tree.map(one, tree)

    count = num_a // a * per_a
    tilings = [
        _Tiling(count, x, lambda tree, i: tile(tree, (i // per_a * a, i % per_a * x), (a, x)))
    ]
    if left:
        tilings.append(_Tiling(1, left, lambda tree, _: tile(tree, (0, per_a * x), (1, left))))
    return tilings


def _each(
    tiling: _Tiling, everything: PyTree, function: Callable[[PyTree], jax.Array]
) -> jax.Array:
    """What a function of a tile returns, for all of them one after another."""
    if tiling.number == 1:
        return function(tiling.take(everything, 0))

    def next_tile(nothing: tuple[()], i: jax.Array) -> tuple[tuple[()], jax.Array]:
        return nothing, function(tiling.take(everything, i))

    return jax.lax.scan(next_tile, (), jnp.arange(tiling.number), unroll=_TILES_AT_ONCE)[1]


def _largest_divisor(number: int, most: int) -> int:
    return next(d for d in range(min(number, most), 0, -1) if number % d == 0)
