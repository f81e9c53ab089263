"""The learned update as two GPU kernels that keep no features in memory (Pallas, Triton).

A program of either kernel takes a block of a tensor's parameters, numbered as they lie in the
view [A, X, Y]. It reads accumulators, Δ and parameter once, computes their features in
registers, and

  first: adds up the squares of the features that vary along X and Y;
  then:  runs the MLP, with normalisation and time folded into its first layer, and writes the
         step.

What varies along one axis only is read by that axis' index, that is, from cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas

from comm_lopt.optimizers.learned.features import FeatureParts, View
from comm_lopt.optimizers.learned.per_parameter_mlp import Layer, any_moved, folded_layers

__all__ = ["fused_mean_squares", "fused_step", "triton"]

PyTree = Any

# Parameters in a block. Of the MLP two layers of activations are in registers at once.
_MLP_BLOCK, _SQUARES_BLOCK = 128, 1024
_WARPS = 4
# The sides of a matrix product in Triton are powers of two, and no smaller than this; features
# beyond so many go into a product of their own, with less to pad.
_SMALLEST_SIDE, _LARGEST_SIDE = 16, 32
# As exact as float32, on units that know shorter numbers alone: each is taken as a sum of two.
_PRECISION = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3
_LARGEST_INDEX = np.iinfo(np.int32).max


def triton() -> Any:
    """Pallas' part that compiles kernels with Triton, or None where this JAX has none.

    Without it they run interpreted only. It takes a tenth of a second to import, for GPUs alone.
    """
    try:
        from jax.experimental.pallas import triton
    except ImportError:  # JAX 0.12 announces that it will go.
        return None
    return triton


def fused_step(
    theta: PyTree,
    parts: FeatureParts,
    time: jax.Array,
    step: Callable[..., jax.Array],
    num_gradients: int,
    base: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """What is to be added to a tensor, or what that comes to; as `blockwise_step`, and

    Args:
      interpret: compute what the kernels would without a GPU, slowly.

    Raises:
      ValueError: the tensor or one of its inputs has 2³¹ elements or more.
      NotImplementedError: this JAX has no Triton, and `interpret` is not set.
    """
    squares = fused_mean_squares(parts, interpret)
    first, *others = _padded(folded_layers(theta, squares, time))
    pieces = _pieces(first.weights.T[np.concatenate(parts.order)])
    weights = [*pieces, first.bias.T]
    for layer in others:
        weights += [layer.weights.T, layer.bias.T]
    # Programs cannot close over arrays.
    weights.append(any_moved(squares, num_gradients).astype(jnp.float32).reshape(1, 1))
    arranged = None if base is None else parts.view.arrange(base)
    data = (parts.inputs, parts.along_x, parts.along_y, arranged)
    precision = jax.lax.Precision.HIGHEST if interpret else _PRECISION

    def learned_update(block: _Block, weights: Sequence[Any], data: PyTree, out: Any) -> None:
        inputs, along_x, along_y, value = data
        features = _dense_rows(parts, inputs, block)
        for along in (along_x, along_y):
            features += [] if along is None else [along.row(i, block) for i in range(along.rows)]
        first, (bias, *others, moved) = weights[: len(pieces)], weights[len(pieces) :]
        hidden = bias[...]
        for number, piece in enumerate(first):
            inputs = _columns(features[number * _LARGEST_SIDE :], piece.shape[0])
            hidden = hidden + jnp.dot(inputs, piece[...], precision=precision)
        outputs = _after_first_layer(others, hidden, precision)
        new = jnp.where(moved[0, 0] > 0, step(*outputs), 0.0)
        out[block.positions] = new if value is None else value.row(0, block) + new

    size = math.prod(parts.view.sizes)
    new = _run(learned_update, parts.view, _MLP_BLOCK, weights, data, (size,), interpret)
    return parts.view.back(new.reshape(parts.view.sizes))


def fused_mean_squares(parts: FeatureParts, interpret: bool = False) -> jax.Array:
    """Mean over a tensor of the square of each of its F features, [F]; see `mean_squares`."""
    num_dense = len(parts.order[0])
    num_blocks = pallas.cdiv(math.prod(parts.view.sizes), _SQUARES_BLOCK)

    def mean_squares(block: _Block, weights: Sequence[Any], inputs: PyTree, out: Any) -> None:
        del weights
        for number, feature in enumerate(_dense_rows(parts, inputs, block)):
            squares = jnp.where(block.inside, jnp.square(feature), 0.0)
            out[block.number, number] = jnp.sum(squares)

    totals = _run(
        mean_squares,
        parts.view,
        _SQUARES_BLOCK,
        [],
        parts.inputs,
        (num_blocks, num_dense),
        interpret,
    )
    return parts.mean_squares(jnp.sum(totals, axis=0))


class _Block(NamedTuple):
    """The parameters of one program.

    Attributes:
      number: which block of the tensor this is.
      positions: of the parameters in the view, [block]; beyond the last one, the last again.
      axes: the same as indices along A, X and Y, each [block].
      inside: whether it is not such a repetition, [block].
    """

    number: jax.Array
    positions: jax.Array
    axes: tuple[jax.Array, jax.Array, jax.Array]
    inside: jax.Array


class _Input(NamedTuple):
    """An array [rows, A, X, Y] in the device's memory; along each axis it may have size 1."""

    ref: Any
    rows: int
    sizes: tuple[int, ...]

    def row(self, number: int, block: _Block) -> jax.Array:
        """The values of a row at a block's parameters, [block]; of the last row beyond it."""
        index = jnp.zeros_like(block.positions)
        for size, along in zip(self.sizes, block.axes, strict=True):
            if size > 1:
                index = index * size + along
        start = min(number, self.rows - 1) * math.prod(self.sizes)
        return self.ref[start + index]


def _run(
    program: Callable[[_Block, Sequence[Any], PyTree, Any], None],
    view: View,
    block_size: int,
    weights: Sequence[jax.Array],
    data: PyTree,
    out_shape: tuple[int, ...],
    interpret: bool,
) -> jax.Array:
    """Runs a program for every block of a tensor.

    Args:
      program: of a block, the weights, an `_Input` for each leaf of `data`, and the output.
      view: the tensor's view.
      block_size: parameters in a block; a power of two.
      weights: arrays that programs read as they are.
      data: tree of arrays as `View.arrange` returns them.
      out_shape: the output's shape.
      interpret: see `fused_step`.
    """
    size = math.prod(view.sizes)
    compiler_params = None
    if not interpret:
        compiler = triton()
        if compiler is None:
            raise NotImplementedError(
                f"JAX {jax.__version__} no longer compiles Pallas kernels with Triton; build "
                'the optimizer with implementation="auto" or "plain".'
            )
        compiler_params = compiler.CompilerParams(num_warps=_WARPS, num_stages=1)
    arrays, treedef = jax.tree.flatten(data)
    inputs_of: Callable[[list[_Input]], PyTree] = treedef.unflatten  # type: ignore[attr-defined]
    arrays = [view.of(array) for array in arrays]
    largest = max(array.size for array in arrays)
    if largest > _LARGEST_INDEX:
        raise ValueError(
            f"{largest} elements are more than the kernel's int32 indices can tell apart; build "
            'the optimizer with implementation="plain".'
        )

    def kernel(*refs: Any) -> None:
        *given, out = refs
        inputs = [
            _Input(ref, array.shape[0], array.shape[1:])
            for ref, array in zip(given[len(weights) :], arrays, strict=True)
        ]
        number = pallas.program_id(0)
        numbers = number * block_size + jnp.arange(block_size, dtype=jnp.int32)
        positions = jnp.minimum(numbers, size - 1)
        num_x, num_y = (jnp.int32(length) for length in view.sizes[1:])
        rows, y = jax.lax.div(positions, num_y), jax.lax.rem(positions, num_y)
        a, x = jax.lax.div(rows, num_x), jax.lax.rem(rows, num_x)
        block = _Block(number, positions, (a, x, y), numbers < size)
        program(block, given[: len(weights)], inputs_of(inputs), out)

    return pallas.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(out_shape, jnp.float32),
        grid=(pallas.cdiv(size, block_size),),
        compiler_params=compiler_params,
        interpret=interpret,
        name=program.__name__,
    )(*weights, *(array.reshape(-1) for array in arrays))


def _dense_rows(parts: FeatureParts, inputs: PyTree, block: _Block) -> list[jax.Array]:
    """The Fd features that vary along X and Y, each [block]."""

    def is_input(node: Any) -> bool:
        return isinstance(node, _Input)

    # Triton knows no arrays of three rows. The features are elementwise, so that they can be
    # had row by row; what is computed several times the compiler computes once.
    def features_of(row: int) -> list[jax.Array]:
        return parts.dense(jax.tree.map(lambda a: a.row(row, block), inputs, is_leaf=is_input))

    shapes = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((a.rows, 1, 1, 1), jnp.float32), inputs, is_leaf=is_input
    )
    rows = [piece.shape[0] for piece in jax.eval_shape(parts.dense, shapes)]
    by_row = [features_of(row) for row in range(max(rows))]
    return [by_row[row][piece] for piece, count in enumerate(rows) for row in range(count)]


def _pieces(weights: jax.Array) -> list[jax.Array]:
    """The first layer's weights [F, hidden], cut and padded to what Triton multiplies."""
    pieces = [
        weights[start : start + _LARGEST_SIDE] for start in range(0, len(weights), _LARGEST_SIDE)
    ]
    return [jnp.pad(piece, ((0, _side(len(piece)) - len(piece)), (0, 0))) for piece in pieces]


def _columns(features: Sequence[jax.Array], count: int) -> jax.Array:
    """The first features, each [block], as columns, and zeros behind them: [block, count]."""
    if count == 1:
        return (features[0] if features else jnp.zeros(_MLP_BLOCK, jnp.float32))[:, None]
    # Triton joins two arrays along a new last axis, and those in one thread's registers at no cost.
    even, odd = (_columns(features[start:count:2], count // 2)[..., None] for start in range(2))
    return jnp.concatenate([even, odd], axis=2).reshape(_MLP_BLOCK, count)


def _after_first_layer(others: Sequence[Any], hidden: jax.Array, precision: Any) -> list[jax.Array]:
    """The MLP's outputs, each [block], from the first layer's sums, [block, hidden]."""
    *middle, last, last_bias = others
    hidden = jax.nn.relu(hidden)
    for weights, bias in zip(middle[::2], middle[1::2], strict=True):
        out = jnp.dot(hidden, weights[...], precision=precision)
        hidden = jax.nn.relu(out + bias[...])
    return [
        jnp.sum(hidden * last[:, unit][None, :], axis=1) + last_bias[0, unit]
        for unit in range(last.shape[1])
    ]


def _padded(layers: list[Layer]) -> list[Layer]:
    """The same MLP, with hidden units added that do nothing, to a width that Triton multiplies."""
    width = len(layers[0].bias)
    missing = _side(width) - width
    padded = []
    for number, (weights, bias) in enumerate(layers):
        into = missing if number else 0
        out = missing if number < len(layers) - 1 else 0
        padded.append(
            Layer(jnp.pad(weights, ((0, out), (0, into))), jnp.pad(bias, ((0, out), (0, 0))))
        )
    return padded


def _side(length: int) -> int:
    """The smallest side of a product that is no shorter."""
    return max(_SMALLEST_SIDE, 1 << (length - 1).bit_length())
