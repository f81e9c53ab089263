"""Rules on parameters of low precision: they compute in float32, and no small step is lost."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from comm_lopt.precision import is_low_precision, widened

__all__ = ["FullPrecisionState", "in_full_precision"]

PyTree = Any


class FullPrecisionState(NamedTuple):
    """State of a rule with what its parameters' precision could not hold.

    Attributes:
      inner: the rule's own state, of parameters in float32.
      residual: like the parameters; float32, what is to be added to a parameter of low precision
        to have its exact value; None for the others.
    """

    inner: PyTree
    residual: PyTree


def in_full_precision(
    transformation: optax.GradientTransformation, keep_residual: bool = True
) -> optax.GradientTransformationExtraArgs:
    """A rule whose bfloat16 and float16 parameters are float32 for it.

    A step of 1e-3 on a bfloat16 parameter of 1.0 is lost, for the next number is 1.0078. The
    rule is given p + r in float32, where r is what was lost before, and

      s = rule(Δ, p + r),   u = round(p + r + s) − p,   r ← (p + r + s) − (p + u).

    r and p together are a float32 master of the parameter, and stay one if something else, such
    as weight decay, moves p as well. Parameters of float32 or more are passed on as they are.

    What scales the steps, and whatever is itself too small for the precision, belongs into
    `transformation`: outside it sees rounded steps.

    Args:
      transformation: the rule.
      keep_residual: whether to keep r, 4 bytes a parameter of low precision; otherwise r = 0.
    """
    rule = optax.with_extra_args_support(transformation)

    def init(params: PyTree) -> FullPrecisionState:
        residual = jax.tree.map(
            lambda p: (
                jnp.zeros_like(p, jnp.float32) if keep_residual and is_low_precision(p) else None
            ),
            params,
        )
        return FullPrecisionState(rule.init(jax.tree.map(widened, params)), residual)

    def update(
        delta: PyTree, state: FullPrecisionState, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, FullPrecisionState]:
        if params is None:
            raise ValueError("the rule needs params; pass update(delta, state, params).")
        treedef: Any = jax.tree.structure(params)
        leaves = treedef.flatten_up_to(params)
        residuals = treedef.flatten_up_to(state.residual)
        exact = [
            widened(p) if r is None else widened(p) + r
            for p, r in zip(leaves, residuals, strict=True)
        ]
        steps, inner = rule.update(
            jax.tree.map(widened, delta), state.inner, treedef.unflatten(exact), **extra
        )
        updates: list[jax.Array] = []
        left: list[jax.Array | None] = []
        for p, r, e, s in zip(leaves, residuals, exact, treedef.flatten_up_to(steps), strict=True):
            if not is_low_precision(p):
                updates.append(s)
                left.append(None)
                continue
            wanted = e + s
            updates.append(wanted.astype(p.dtype) - p)
            left.append(None if r is None else wanted - widened(p + updates[-1]))
        return treedef.unflatten(updates), FullPrecisionState(inner, treedef.unflatten(left))

    return optax.GradientTransformationExtraArgs(init, update)
