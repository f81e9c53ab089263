"""What a worker sends in place of its delta: int8 or the largest entries, with error feedback."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import gin
import jax
import jax.numpy as jnp

from comm_lopt.checks import require_range
from comm_lopt.hyperparameters import plain
from comm_lopt.precision import widened
from comm_lopt.tasks.averages import over_leading_axis
from comm_lopt.tasks.exchange import each_on_its_device, in_parts, on_every_device

__all__ = [
    "Compression",
    "Int8",
    "Residuals",
    "TopK",
    "checked_compression",
    "message_bytes",
    "no_residuals",
    "sent",
    "sent_back",
]

PyTree = Any
Message = tuple[jax.Array, ...]
"""What crosses of one tensor: arrays [K, ...]."""

_INT8_MAX = 127


@runtime_checkable
class Compression(Protocol):
    """Turns each tensor that a worker sends into a smaller message.

    With error feedback (Seide et al. 2014, "1-bit stochastic gradient descent and its application
    to data-parallel distributed training of speech DNNs"; Karimireddy et al. 2019, "Error feedback
    fixes SignSGD and other gradient compression schemes", algorithm 2) worker k sends, of its
    delta and of what earlier rounds left of theirs,

      x_k = Δ_k + e_k,   m_k = compress(x_k),   e_k ← x_k − decompress(m_k),

    so that nothing is lost for good: what was sent so far and e_k add up to all deltas so far.

    Attributes:
      error_feedback: whether e_k is kept; otherwise it is 0 in every round.
      compresses_mean: whether the mean comes back compressed too, by its owner, with an e of its
        own (Tang et al. 2019, "DoubleSqueeze"); otherwise every worker receives all K messages.
    """

    @property
    def error_feedback(self) -> bool:
        """See above."""
        ...

    @property
    def compresses_mean(self) -> bool:
        """See above."""
        ...

    def compress(self, values: jax.Array) -> Message:
        """[K, *s] to the messages of K workers."""
        ...

    def decompress(self, message: Message, shape: tuple[int, ...]) -> jax.Array:
        """The messages of K workers to float32 [K, *s], `shape`."""
        ...

    def num_bytes(self, shape: tuple[int, ...]) -> int:
        """The bytes of one worker's message of a tensor of shape s."""
        ...


@gin.configurable(module="comm_lopt")
@dataclasses.dataclass(frozen=True)
class Int8:
    """Eight bits an entry, and a float32 scale for each tensor of each worker.

      s = max|x| / 127,   m = (round(x / s), s),   decompressed s · round(x / s),

    to the nearest, a tie to the even one, so that no entry is wrong by more than s / 2. Where s
    is 0 or too small for a float32, 0 is sent. Where an entry is not finite the whole tensor
    comes out not finite, so that a worker that diverged is seen.

    Attributes:
      error_feedback: whether what rounding left is added to the next round's delta.

    Raises:
      TypeError: `error_feedback` is no truth value.
    """

    error_feedback: bool = True
    compresses_mean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        kept = plain(self.error_feedback)
        if not isinstance(kept, bool):
            raise TypeError(f"error_feedback={kept!r} is neither True nor False; pass one of them.")
        object.__setattr__(self, "error_feedback", kept)

    def compress(self, values: jax.Array) -> Message:
        """[K, *s] to int8 [K, *s] and scales [K]."""
        values = values.astype(jnp.float32)
        axes = tuple(range(1, values.ndim))
        scale = jnp.max(jnp.abs(values), axis=axes, initial=0.0) / _INT8_MAX
        usable = jnp.isfinite(scale) & (scale >= jnp.finfo(jnp.float32).tiny)
        divisor = over_leading_axis(jnp.where(usable, scale, jnp.inf), values)
        steps = jnp.clip(jnp.round(values / divisor), -_INT8_MAX, _INT8_MAX)
        # What is not a number has no int8; the scale says it.
        steps = jnp.where(over_leading_axis(usable, values), steps, 0)
        return steps.astype(jnp.int8), scale

    def decompress(self, message: Message, shape: tuple[int, ...]) -> jax.Array:
        """int8 [K, *s] and scales [K] to float32 [K, *s]."""
        del shape
        steps, scale = message
        return steps.astype(jnp.float32) * over_leading_axis(scale, steps)

    def num_bytes(self, shape: tuple[int, ...]) -> int:
        """n + 4."""
        return math.prod(shape) + 4


@gin.configurable(module="comm_lopt")
@dataclasses.dataclass(frozen=True)
class TopK:
    """A tensor's largest entries by magnitude, as float32, with their positions; error feedback.

    Of n entries it sends round(fraction · n), at least one (Stich et al. 2018, "Sparsified SGD
    with memory"; Lin et al. 2018, "Deep gradient compression"). Of equal ones the first are sent;
    what is not a number comes first of all, so that a worker that diverged is seen.

    Every worker receives the entries of all K, of 8 bytes each: that is less than the n float32
    of a mean where the fraction is below 1 / (2K).

    Attributes:
      fraction: in (0, 1].

    Raises:
      ValueError: it lies outside.
      TypeError: it is no number.
    """

    fraction: float = 0.01
    error_feedback: ClassVar[bool] = True
    compresses_mean: ClassVar[bool] = False

    def __post_init__(self) -> None:
        fraction = require_range("fraction", self.fraction, 0.0, 1.0, exclude_low=True)
        object.__setattr__(self, "fraction", fraction)

    def compress(self, values: jax.Array) -> Message:
        """[K, *s] to values and their positions in the flat tensor, [K, entries]."""
        flat = values.astype(jnp.float32).reshape(len(values), math.prod(values.shape[1:]))
        size = jnp.where(jnp.isnan(flat), jnp.inf, jnp.abs(flat))
        _, positions = jax.lax.top_k(size, self._num_entries(values.shape[1:]))
        return jnp.take_along_axis(flat, positions, axis=1), positions.astype(jnp.int32)

    def decompress(self, message: Message, shape: tuple[int, ...]) -> jax.Array:
        """Values and positions, [K, entries], to float32 [K, *s], `shape`; 0 elsewhere."""

        def one(values: jax.Array, positions: jax.Array) -> jax.Array:
            return jnp.zeros(math.prod(shape[1:]), jnp.float32).at[positions].set(values)

        return jax.vmap(one)(*message).reshape(shape)

    def num_bytes(self, shape: tuple[int, ...]) -> int:
        """8 for each entry that is sent."""
        return 8 * self._num_entries(shape)

    def _num_entries(self, shape: tuple[int, ...]) -> int:
        size = math.prod(shape)
        return min(size, max(1, round(self.fraction * size)))


class Residuals(NamedTuple):
    """What error feedback has not sent yet.

    Attributes:
      workers: e_k, like the worker deltas [K, ...]; it stays with its worker.
      mean: e of the mean, like the parameters with a leading 1; None where the mean is not
        compressed.
    """

    workers: PyTree = None
    mean: PyTree = None


def no_residuals(
    compression: Compression | None, params: PyTree, num_workers: int, mean: bool = True
) -> Residuals | None:
    """The residuals before the first round, or None where there are none ever.

    Args:
      compression: what is sent; None: all of it.
      params: W.
      num_workers: K.
      mean: whether the mean is sent back, and is not taken by each worker from all K messages.
    """
    if compression is None or not compression.error_feedback:
        return None

    def zeros(count: int) -> PyTree:
        return jax.tree.map(lambda p: jnp.zeros((count, *p.shape), widened(p).dtype), params)

    return Residuals(zeros(num_workers), zeros(1) if mean and compression.compresses_mean else None)


def sent(compression: Compression, deltas: PyTree, residuals: PyTree) -> tuple[PyTree, PyTree]:
    """What workers send, as it is received, and what they keep back.

    On a mesh each message is made where its worker is, and crosses as it is: what has a tensor's
    shape so that each device gets all K of its part of the tensor, all else to everyone.

    Args:
      compression: how.
      deltas: Δ_k, a tree of arrays [K, ...].
      residuals: e_k, the same; None: 0, and nothing is kept.
    """

    def one(delta: jax.Array, residual: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        whole = delta if residual is None else delta + residual
        message, left = each_on_its_device(lambda x: _compressed(compression, x), whole)
        crossed = tuple(
            in_parts(part) if part.shape == delta.shape else on_every_device(part)
            for part in message
        )
        received = compression.decompress(crossed, delta.shape).astype(delta.dtype)
        return received, None if residual is None else left

    return _in_pairs(one, deltas, residuals)


def sent_back(compression: Compression, mean: PyTree, residual: PyTree) -> tuple[PyTree, PyTree]:
    """The mean as workers receive it, and what is kept back.

    On a mesh each device has a part of the mean, and sends it to all.

    Args:
      compression: how.
      mean: a tree of arrays [1, ...].
      residual: e, the same; None: 0, and nothing is kept.
    """

    def one(mean: jax.Array, residual: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        whole = in_parts(mean if residual is None else mean + residual)
        message, left = _compressed(compression, whole)
        # Said twice, so that it does not cross before it is compressed.
        crossed = tuple(on_every_device(in_parts(part)) for part in message)
        received = compression.decompress(crossed, mean.shape).astype(mean.dtype)
        return received, None if residual is None else left

    return _in_pairs(one, mean, residual)


def message_bytes(compression: Compression | None, params: PyTree) -> int:
    """The bytes of what a worker sends of one delta: of the floats of W.

    Args:
      compression: how it is sent; None: as it is.
      params: W, arrays or their shapes.
    """
    leaves = [leaf for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if compression is None:
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    return sum(compression.num_bytes(leaf.shape) for leaf in leaves)


def checked_compression(compression: Any) -> Compression | None:
    """A compression, or None.

    Raises:
      TypeError: it is neither.
    """
    if compression is None or (
        isinstance(compression, Compression) and not isinstance(compression, type)
    ):
        return compression
    raise TypeError(
        f"compression={compression!r:.100} is none; pass comm_lopt.Int8(), comm_lopt.TopK(0.01) or "
        "None, in gin @Int8() with its parentheses."
    )


def _compressed(compression: Compression, whole: jax.Array) -> tuple[Message, jax.Array]:
    """The message of x [K, *s], and x − decompressed message."""
    message = compression.compress(whole)
    return message, whole - compression.decompress(message, whole.shape).astype(whole.dtype)


def _in_pairs(one: Any, values: PyTree, residuals: PyTree) -> tuple[PyTree, PyTree]:
    """Leaf by leaf, to two trees; no residuals to none."""
    structure: Any = jax.tree.structure(values)
    leaves = jax.tree.leaves(values)
    before = [None] * len(leaves) if residuals is None else jax.tree.leaves(residuals)
    pairs = [one(*pair) for pair in zip(leaves, before, strict=True)]
    received = structure.unflatten([first for first, _ in pairs])
    left = None if residuals is None else structure.unflatten([second for _, second in pairs])
    return received, left
