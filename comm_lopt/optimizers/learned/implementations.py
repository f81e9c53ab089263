"""The ways to compute a learned update, all with the same result, and which suits a device."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from comm_lopt.optimizers.learned.ada_features import AdaFeatures
from comm_lopt.optimizers.learned.blockwise import blockwise_step, fits_one_tile
from comm_lopt.optimizers.learned.features import FeatureSet, time_features
from comm_lopt.optimizers.learned.fused_kernel import fused_step
from comm_lopt.optimizers.learned.per_parameter_mlp import any_moved, apply_mlp, init_mlp

__all__ = ["IMPLEMENTATIONS", "kernel_works", "learned_step"]

PyTree = Any
Step = Callable[..., jax.Array]

IMPLEMENTATIONS = ("auto", "plain", "blockwise", "kernel")


def learned_step(
    implementation: str,
    features: FeatureSet,
    theta: PyTree,
    tensor: tuple[PyTree, jax.Array, jax.Array, jax.Array],
    time: jax.Array,
    step: Step,
    added: bool = False,
) -> jax.Array:
    """What is to be added to a tensor of shape s, or what that comes to.

    Nothing is added where all gradient inputs are zero everywhere: the tensor was frozen.

    Args:
      implementation: one of `IMPLEMENTATIONS`. "plain" keeps all features of a tensor in memory,
        "blockwise" those of a tile (see `blockwise`), "kernel" none (see `fused_kernel`). "auto"
        is "blockwise" on CPUs, whose caches it is made for; on GPUs "kernel" if `kernel_works()`;
        else "plain", as it is on a mesh of several devices, where XLA would gather what it is to
        cut into tiles. A tensor of at most one tile has nothing to gain from tiles, and compiles
        three times faster without, so that "blockwise" is "plain" for it.
      features: the feature set.
      theta: weights of the MLP, from `init_mlp`.
      tensor: accumulators after this round's update, parameter [*s], mean Δ [*s] and gradient
        inputs [n, *s], as for `FeatureSet.features`.
      time: time features, [11] or [0].
      step: from the MLP's outputs, of one shape, to what is to be added.
      added: whether to return the sum of parameter and step.

    Raises:
      ValueError: "kernel" on a device that is neither a GPU nor, interpreted, a CPU.
    """
    chosen = _chosen(implementation)
    num_gradients = len(tensor[3])

    def plain(theta: PyTree, tensor: tuple, time: jax.Array) -> jax.Array:
        values = features.features(*tensor)
        squares = jnp.mean(jnp.square(values.reshape(len(values), -1)), axis=1)
        out = step(*apply_mlp(theta, values, squares, time))
        out = jnp.where(any_moved(squares, num_gradients), out, 0.0)
        return tensor[1] + out if added else out

    @jax.custom_jvp
    def kernel(theta: PyTree, tensor: tuple, time: jax.Array) -> jax.Array:
        interpret = jax.default_backend() == "cpu"
        base = tensor[1] if added else None
        return fused_step(
            theta, features.parts(*tensor), time, step, num_gradients, base, interpret
        )

    # Kernels have no derivative of their own.
    @kernel.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(plain, primals, tangents)

    if chosen == "blockwise" and not fits_one_tile(tensor[1].size):
        base = tensor[1] if added else None
        return blockwise_step(theta, features.parts(*tensor), time, step, num_gradients, base)
    return (kernel if chosen == "kernel" else plain)(theta, tensor, time)


@functools.cache
def kernel_works() -> bool:
    """Whether this process's GPU compiles the kernels, and computes with them what it should.

    Tried once, on a small tensor; if not, a warning is logged that says why.
    """
    if jax.default_backend() != "gpu":
        return False
    features = AdaFeatures()
    param, delta = np.random.default_rng(0).normal(size=(2, 48, 40)).astype(np.float32)

    def update(param: jax.Array, delta: jax.Array) -> tuple[jax.Array, ...]:
        tensor = (features.init(param), param, delta, delta[None])
        theta = init_mlp(jax.random.PRNGKey(0), features.num_features(1) + 11, 32, 2)
        time = time_features(jnp.asarray(1))
        return tuple(
            learned_step(implementation, features, theta, tensor, time, _step)
            for implementation in ("kernel", "plain")
        )

    try:
        with jax.default_matmul_precision("highest"):
            # Lowered and compiled, it runs here and now, even while something else is traced.
            new, expected = jax.jit(update).lower(param, delta).compile()(param, delta)
        largest = np.max(np.abs(np.asarray(new) - np.asarray(expected)))
        if largest < 1e-3:
            return True
        reason = f"it is wrong by {largest:.2g} on a small tensor"
    except Exception as error:  # Whatever keeps a GPU from running it; the plain update will do.
        reason = f"{type(error).__name__}: {error}"
    logging.getLogger(__name__).warning(
        "Learned updates are computed by the slower implementation 'plain', since the kernel does "
        "not work on this GPU (%s)",
        reason,
    )
    return False


def _chosen(implementation: str) -> str:
    """What an implementation stands for on the default device."""
    backend = jax.default_backend()
    if implementation == "kernel" and backend not in ("gpu", "cpu"):
        raise ValueError(
            "implementation='kernel' is for GPUs (and interpreted on CPUs), and the default device "
            f"is a {backend}; pass implementation='plain', or 'auto'."
        )
    if implementation != "auto":
        return implementation
    mesh = jax.sharding.get_abstract_mesh()
    sizes = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    if any(size > 1 and kind != jax.sharding.AxisType.Manual for size, kind in sizes):
        return "plain"
    if backend == "cpu":
        return "blockwise"
    return "kernel" if kernel_works() else "plain"


def _step(direction: jax.Array, magnitude: jax.Array) -> jax.Array:
    return -direction * jnp.exp(magnitude)
