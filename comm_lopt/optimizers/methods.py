"""The ways to compute a learned update, all with the same result, and which suits a device."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from comm_lopt.optimizers.ada_features import AdaFeatures
from comm_lopt.optimizers.blockwise import blockwise_update
from comm_lopt.optimizers.features import FeatureSet, time_features
from comm_lopt.optimizers.fused_kernel import fused_update
from comm_lopt.optimizers.per_parameter_mlp import apply_mlp, init_mlp

__all__ = ["METHODS", "kernel_works", "new_values"]

PyTree = Any
Step = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

METHODS = ("auto", "plain", "blockwise", "kernel")


def new_values(
    method: str,
    features: FeatureSet,
    theta: PyTree,
    tensor: tuple[PyTree, jax.Array, jax.Array, jax.Array],
    time: jax.Array,
    step: Step,
) -> jax.Array:
    """The new values of a tensor of shape s.

    Args:
      method: one of `METHODS`. "plain" keeps all features of a tensor in memory, "blockwise" those
        of a tile (see `blockwise`), "kernel" none (see `fused_kernel`). "auto" is "blockwise" on
        CPUs, whose caches it is made for; on GPUs "kernel" if `kernel_works()`; else "plain".
      features: the feature set.
      theta: weights of the MLP, from `init_mlp`.
      tensor: accumulators after this round's update, parameter [*s], mean Δ [*s] and gradient
        inputs [n, *s], as for `FeatureSet.features`.
      time: time features, [11].
      step: from parameters, direction and log-magnitude, all of one shape, to new parameters.

    Raises:
      ValueError: "kernel" on a device that is neither a GPU nor, interpreted, a CPU.
    """
    chosen = _chosen(method)

    def plain(theta: PyTree, tensor: tuple, time: jax.Array) -> jax.Array:
        return step(tensor[1], *apply_mlp(theta, features.features(*tensor), time))

    @jax.custom_jvp
    def kernel(theta: PyTree, tensor: tuple, time: jax.Array) -> jax.Array:
        interpret = jax.default_backend() == "cpu"
        return fused_update(theta, features.parts(*tensor), time, step, tensor[1], interpret)

    # Kernels have no derivative of their own.
    @kernel.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(plain, primals, tangents)

    if chosen == "blockwise":
        return blockwise_update(theta, features.parts(*tensor), time, step, tensor[1])
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
            new_values(method, features, theta, tensor, time, _plain_step)
            for method in ("kernel", "plain")
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
        "Learned updates are computed by the slower method 'plain', since the kernel does not "
        "work on this GPU (%s)",
        reason,
    )
    return False


def _chosen(method: str) -> str:
    """What a method stands for on the default device."""
    backend = jax.default_backend()
    if method == "kernel" and backend not in ("gpu", "cpu"):
        raise ValueError(
            f"method='kernel' is for GPUs (and interpreted on CPUs), and the default device is a "
            f"{backend}; pass method='plain', or 'auto'."
        )
    if method != "auto":
        return method
    if backend == "cpu":
        return "blockwise"
    return "kernel" if kernel_works() else "plain"


def _plain_step(param: jax.Array, direction: jax.Array, magnitude: jax.Array) -> jax.Array:
    return param - direction * jnp.exp(magnitude)
