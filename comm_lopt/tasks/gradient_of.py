"""Losses whose gradient is given beside them, in the form that `jax.grad` asks for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import jax

__all__ = ["Evaluated", "once_differentiable", "with_gradient"]

PyTree = Any
Evaluated = tuple[jax.Array, PyTree]
"""A loss, and what comes beside it."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def with_gradient(
    evaluate: Callable[[PyTree, PyTree], Evaluated],
    train: Callable[[PyTree, PyTree], tuple[Evaluated, PyTree]],
    params: PyTree,
    rest: PyTree,
) -> Evaluated:
    """One function where its value is asked for, another where its gradient is.

    Upstream evaluates and trains through the same call: what it differentiates, it trains on.

    Args:
      evaluate: of (params, rest) to the loss and what comes beside it.
      train: of the same to the loss and what comes beside it in training, of the same structure,
        and the gradient with respect to the parameters.
      params: what is differentiated with respect to.
      rest: all other arguments; their gradient is zero.
    """
    return evaluate(params, rest)


def _forward(evaluate: Any, train: Any, params: PyTree, rest: PyTree) -> tuple[Evaluated, PyTree]:
    del evaluate
    return train(params, rest)


def _backward(evaluate: Any, train: Any, gradient: PyTree, cotangents: Evaluated) -> tuple:
    del evaluate, train
    scale, _ = cotangents
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), gradient), None


with_gradient.defvjp(_forward, _backward)


@jax.custom_jvp
def once_differentiable(params: PyTree) -> PyTree:
    """Parameters as they are; an error where what is computed from them is differentiated.

    Raises:
      NotImplementedError: by `jax.grad` through it.
    """
    return params


@once_differentiable.defjvp
def _refuse(primals: tuple, tangents: tuple) -> NoReturn:
    raise NotImplementedError(
        "a round of local SGD is differentiated through, as upstream's TruncatedGrad does: its "
        "gradient is the pseudo-gradient, which stands where a gradient stands and has no "
        "derivative of its own; use an estimator that looks at losses alone, such as "
        "comm_lopt.upstream.pes or upstream's FullES."
    )
