"""The small MLP that turns a parameter's features into its step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["apply_mlp", "init_mlp"]

PyTree = Any

_NORMALISER_EPSILON = 1e-5


def init_mlp(key: jax.Array, num_inputs: int, hidden_size: int, hidden_layers: int) -> PyTree:
    """Initial weights: truncated normal of standard deviation 1/√fan-in, biases zero.

    Args:
      key: random key.
      num_inputs: F + 11, features and time features.
      hidden_size: width of the hidden layers.
      hidden_layers: number of hidden layers.

    Returns:
      dict of `w0`, `b0`, `w1`, ...; the last layer has two outputs.
    """
    sizes = [num_inputs, *[hidden_size] * hidden_layers, 2]
    theta = {}
    keys = jax.random.split(key, len(sizes) - 1)
    for layer, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        weights = jax.random.truncated_normal(keys[layer], -2.0, 2.0, (fan_in, fan_out))
        theta[f"w{layer}"] = weights / jnp.sqrt(jnp.float32(fan_in))
        theta[f"b{layer}"] = jnp.zeros(fan_out)
    return theta


def apply_mlp(theta: PyTree, features: jax.Array, time: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Direction d and log-magnitude m of every parameter of a tensor of shape s.

    Each feature is divided by its root mean square over the tensor, the time features are
    appended, and an MLP with ReLU follows. Two things are folded into the first layer W, b
    instead of being done to every parameter: with r_f = rsqrt(mean(x_f²) + 1e-5),

      [x · r, time] W + b  =  x (r[:, None] · W_features) + (time W_time + b).

    Args:
      theta: weights from `init_mlp`.
      features: x, [*s, F].
      time: time features, [11].

    Returns:
      d and m, each of shape s.
    """
    num_features = features.shape[-1]
    flat = features.reshape(-1, num_features)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(flat), axis=0) + _NORMALISER_EPSILON)
    hidden = flat @ (scale[:, None] * theta["w0"][:num_features])
    hidden = hidden + (time @ theta["w0"][num_features:] + theta["b0"])[None]
    for layer in range(1, len(theta) // 2):
        hidden = jax.nn.relu(hidden) @ theta[f"w{layer}"] + theta[f"b{layer}"][None]
    shape = features.shape[:-1]
    return hidden[:, 0].reshape(shape), hidden[:, 1].reshape(shape)
