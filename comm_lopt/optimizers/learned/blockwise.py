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

from comm_lopt.optimizers.learned.features import FeatureParts
from comm_lopt.optimizers.learned.per_parameter_mlp import (
    after_first_layer,
    any_moved,
    folded_layers,
)

__all__ = ["blockwise_step", "fits_one_tile", "mean_squares", "tile_shape"]

PyTree = Any

# Parameters in a tile. Few enough that its activations stay in cache, enough to share between
# cores; large tensors are seldom mapped over several theta.
_TILE = 4096
_LARGE_TENSOR, _LARGE_TILE = 1 << 17, 16384
# Tiles in one turn of the loop. XLA's CPU backend writes slices on one core, but two tiles that
# do not depend on each other on two.
_TILES_AT_ONCE = 2


def blockwise_step(
    theta: PyTree,
    parts: FeatureParts,
    time: jax.Array,
    step: Callable[..., jax.Array],
    num_gradients: int,
    base: jax.Array | None = None,
) -> jax.Array:
    """What is to be added to a tensor, or what that comes to.

    Args:
      theta: weights of the MLP, from `init_mlp`.
      parts: the features.
      time: time features, [11] or [0].
      step: from the MLP's outputs, of one shape, to what is to be added.
      num_gradients: how many of the first features are gradient inputs; where all of them are
        zero nothing is added.
      base: the tensor, shape s, to which to add the step; None returns the step alone.

    Returns:
      Shape s.
    """
    squares = mean_squares(parts)
    first, *others = folded_layers(theta, squares, time)
    moved = any_moved(squares, num_gradients)
    dense, for_x, for_y = (first.weights[:, order] for order in parts.order)
    shared, along_y = first.bias[..., None, None], parts.along_y
    tilings = _tilings(parts)
    if along_y is not None and parts.view.sizes[0] == 1:
        # All tiles add the same along Y. One array of a tile's shape is added faster than rows.
        shared = shared + _product(for_y, parts.view.of(along_y))
        shared = jnp.broadcast_to(shared, (len(shared), 1, tilings[0].sizes[1], shared.shape[-1]))
        along_y = None
    arranged = None if base is None else parts.view.arrange(base)
    everything = (parts.inputs, parts.along_x, along_y, arranged)

    def one_tile(tile: PyTree, sizes: tuple[int, int, int]) -> jax.Array:
        inputs, along_x, along_y, values = tile
        hidden = (dense @ _stacked(parts.dense(inputs))).reshape(-1, *sizes)
        for weights, along in ((for_x, along_x), (for_y, along_y)):
            if along is not None:
                hidden = hidden + _product(weights, along)
        hidden = hidden + shared[:, :, : sizes[1]]
        out = jnp.where(moved, step(*after_first_layer(others, jax.nn.relu(hidden))), 0.0)
        return out if values is None else values[0] + out

    pieces = [_each(tiling, everything, one_tile) for tiling in tilings]
    if len(pieces) > 1:
        pieces = [jnp.concatenate([piece.reshape(-1, piece.shape[-1]) for piece in pieces])]
    return parts.view.back(pieces[0].reshape(parts.view.sizes))


def mean_squares(parts: FeatureParts) -> jax.Array:
    """Mean over a tensor of the square of each of its F features, [F]."""

    def sums(tile: PyTree, sizes: tuple[int, int, int]) -> jax.Array:
        del sizes
        features = parts.dense(tile)
        return jnp.concatenate([jnp.sum(jnp.square(f), axis=(1, 2, 3)) for f in features])

    # Tile by tile side by side, and not added up in a carry, whose type would have to be that of
    # the tiles under `shard_map`.
    totals = [_each(tiling, parts.inputs, sums) for tiling in _tilings(parts)]
    return parts.mean_squares(jnp.sum(jnp.concatenate(totals), axis=0))


def fits_one_tile(size: int) -> bool:
    """Whether a tensor of so many parameters is cut into no more than one tile."""
    return size <= _TILE


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
    out = jnp.zeros((sum(map(len, features)), size), jnp.float32)
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
      sizes: of a tile, (a, x, Y).
      take: from a tree of arranged arrays and i to tile i of each, [n, a, x, Y]; where an array
        has size 1, so has the tile.
    """

    number: int
    sizes: tuple[int, int, int]
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
        _Tiling(
            count,
            (a, x, num_y),
            lambda tree, i: tile(tree, (i // per_a * a, i % per_a * x), (a, x)),
        )
    ]
    if left:
        rest = (1, left)
        tilings.append(_Tiling(1, (*rest, num_y), lambda tree, _: tile(tree, (0, per_a * x), rest)))
    return tilings


def _each(
    tiling: _Tiling,
    everything: PyTree,
    function: Callable[[PyTree, tuple[int, int, int]], jax.Array],
) -> jax.Array:
    """What a function of a tile and its sizes returns, for all of them: [number, ...]."""
    if tiling.number == 1:
        return function(tiling.take(everything, 0), tiling.sizes)[None]

    def next_tile(nothing: tuple[()], i: jax.Array) -> tuple[tuple[()], jax.Array]:
        return nothing, function(tiling.take(everything, i), tiling.sizes)

    return jax.lax.scan(next_tile, (), jnp.arange(tiling.number), unroll=_TILES_AT_ONCE)[1]


def _largest_divisor(number: int, most: int) -> int:
    return next(d for d in range(min(number, most), 0, -1) if number % d == 0)
