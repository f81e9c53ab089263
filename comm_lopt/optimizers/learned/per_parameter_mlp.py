"""The small MLP that turns a parameter's features into its step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = [
    "Layer",
    "after_first_layer",
    "any_moved",
    "apply_mlp",
    "apply_to_vector",
    "folded_layers",
    "init_mlp",
]

PyTree = Any

_NORMALISER_EPSILON = 1e-5


def init_mlp(
    key: jax.Array, num_inputs: int, hidden_size: int, hidden_layers: int, num_outputs: int = 2
) -> PyTree:
    """Initial weights: truncated normal of standard deviation 1/√fan-in, biases zero.

    Args:
      key: random key.
      num_inputs: F + 11, features and time features, or F without these.
      hidden_size: width of the hidden layers.
      hidden_layers: number of hidden layers.
      num_outputs: O; a published rule has two, direction and log-magnitude.

    Returns:
      dict of `w0`, `b0`, `w1`, ...
    """
    sizes = [num_inputs, *[hidden_size] * hidden_layers, num_outputs]
    theta = {}
    keys = jax.random.split(key, len(sizes) - 1)
    for layer, (fan_in, fan_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        weights = jax.random.truncated_normal(
            keys[layer], -2.0, 2.0, (fan_in, fan_out), jnp.float32
        )
        theta[f"w{layer}"] = weights / jnp.sqrt(jnp.float32(fan_in))
        theta[f"b{layer}"] = jnp.zeros(fan_out, jnp.float32)
    return theta


def apply_to_vector(theta: PyTree, inputs: jax.Array) -> jax.Array:
    """The outputs [O] of an MLP of one hidden layer for one vector [F], as it is.

    Args:
      theta: weights from `init_mlp`.
      inputs: what it sees of a whole tensor, [F].
    """
    hidden = jax.nn.relu(inputs @ theta["w0"] + theta["b0"])
    return hidden @ theta["w1"] + theta["b1"]


class Layer(NamedTuple):
    """A layer for columns of inputs: W x + b.

    Attributes:
      weights: W, [out, in].
      bias: b, [out, 1].
    """

    weights: jax.Array
    bias: jax.Array


def folded_layers(theta: PyTree, mean_squares: jax.Array, time: jax.Array) -> list[Layer]:
    """The MLP's layers for features as they are, normalisation and time folded into the first.

    Each feature is divided by its root mean square over the tensor, and the time features,
    which are the same for all parameters, are appended. Both are done to the first layer W, b
    instead of to every parameter: with r_f = rsqrt(mean(x_f²) + 1e-5),

      Wᵀ [r · x; time] + b  =  (r[:, None] · W_features)ᵀ x + (W_timeᵀ time + b).

    Args:
      theta: weights from `init_mlp`.
      mean_squares: mean(x_f²) over the tensor, [F].
      time: time features, [11]; [0] for a rule that does not see the time.
    """
    num_features = len(mean_squares)
    scale = jax.lax.rsqrt(mean_squares + _NORMALISER_EPSILON)
    first = (scale[:, None] * theta["w0"][:num_features]).T
    layers = [Layer(first, (time @ theta["w0"][num_features:] + theta["b0"])[:, None])]
    for layer in range(1, len(theta) // 2):
        layers.append(Layer(theta[f"w{layer}"].T, theta[f"b{layer}"][:, None]))
    return layers


def after_first_layer(layers: list[Layer], hidden: jax.Array) -> jax.Array:
    """From the first layer's units [hidden, *s] to the outputs [O, *s].

    Args:
      layers: the layers after the first.
      hidden: units of the first layer, after ReLU.
    """
    out = hidden.reshape(len(hidden), -1)
    for number, layer in enumerate(layers):
        out = layer.weights @ (jax.nn.relu(out) if number else out) + layer.bias
    return out.reshape(-1, *hidden.shape[1:])


def any_moved(mean_squares: jax.Array, num_gradients: int) -> jax.Array:
    """Whether any of the gradient inputs, which are the first features, is not zero: a scalar."""
    return jnp.any(mean_squares[:num_gradients] > 0)


def apply_mlp(
    theta: PyTree, features: jax.Array, mean_squares: jax.Array, time: jax.Array
) -> jax.Array:
    """The MLP's outputs for every parameter of a tensor of shape s.

    Args:
      theta: weights from `init_mlp`.
      features: not normalised, [F, *s].
      mean_squares: mean(x_f²) over the tensor, [F].
      time: time features, [11] or [0].

    Returns:
      [O, *s]; of a published rule direction d and log-magnitude m.
    """
    flat = features.reshape(len(features), -1)
    first, *others = folded_layers(theta, mean_squares, time)
    hidden = jax.nn.relu(first.weights @ flat + first.bias)
    return after_first_layer(others, hidden).reshape(-1, *features.shape[1:])
