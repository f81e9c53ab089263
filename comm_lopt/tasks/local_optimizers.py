"""What takes the local steps. A new local optimizer is a function here and one line below."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gin
import jax
import optax
from optax import contrib

from comm_lopt import gradient_descent
from comm_lopt.checks import require_range

__all__ = [
    "LOCAL_OPTIMIZERS",
    "LocalOptimizerEntry",
    "local_adamw",
    "local_muon",
    "local_optimizer_name",
    "local_sgd",
]

PyTree = Any


@gin.configurable(module="comm_lopt")
def local_sgd(
    learning_rate: Any = 0.1,
    clip_norm: float | None = None,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """SGD for the local steps: W ← W − γ · (clip(g) + λ W).

    Args:
      learning_rate: γ; a number, or a traced scalar in a sweep.
      clip_norm: largest global norm of the gradient; None does not clip. (The paper clips to
        5 in some experiments.)
      weight_decay: λ. (The paper uses 1e-4 in some experiments.)

    Returns:
      An optax transformation without state.

    Raises:
      ValueError: a negative learning rate or weight decay, or a clip norm not above 0.
    """
    return gradient_descent.sgd(learning_rate, None, clip_norm, weight_decay)


@gin.configurable(module="comm_lopt")
def local_adamw(
    learning_rate: Any = 4e-4,
    b1: Any = 0.9,
    b2: Any = 0.95,
    epsilon: Any = 1e-8,
    weight_decay: Any = 0.1,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """AdamW for the local steps, the inner optimizer of DiLoCo; see `gradient_descent.adamw`.

    DiLoCo (Douillard et al. 2023, appendix) publishes γ = 4e-4 and λ = 0.1 for language models;
    β₁ = 0.9 and β₂ = 0.95 are those of torchft's DiLoCo. That of MuLoCo's code has β₂ = 0.99
    and clips to 1. Small problems want a larger γ.

    Args:
      learning_rate: γ; a number, or a traced scalar in a sweep.
      b1: β₁, decay of the first moment, in [0, 1).
      b2: β₂, decay of the second moment, in [0, 1).
      epsilon: added to the root of the second moment, at least 0.
      weight_decay: λ, decoupled and multiplied by γ.
      clip_norm: largest global norm of the gradient; None does not clip.

    Returns:
      An optax transformation.

    Raises:
      ValueError: an argument outside its interval.
    """
    return gradient_descent.adamw(learning_rate, b1, b2, epsilon, clip_norm, weight_decay)


@gin.configurable(module="comm_lopt")
def local_muon(
    learning_rate: Any = 0.02,
    momentum: Any = 0.9,
    nesterov: bool = False,
    weight_decay: Any = 0.0,
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.99,
    epsilon: Any = 1e-8,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Muon for the local steps, the inner optimizer of MuLoCo (Jordan et al. 2024).

    m ← β m + (1 − β) g;  W ← W − γ (√max(1, n_out / n_in) · orthogonal(m) + λ W)

    on every tensor of two or more axes, where orthogonal(m) brings the singular values to about
    1 by five Newton-Schulz steps (to between 0.7 and 1.2) and tensors are taken as matrices
    [everything else, last axis], which for a convolution's kernel [height, width, in, out] is
    [n_in, n_out]. Scalars and vectors take AdamW's steps with the same γ and λ. Embeddings and
    output layers, which MuLoCo also leaves to AdamW, have no shape of their own and take Muon's.

    MuLoCo (Thérien et al. 2025 and its code) has β = 0.9 without Nesterov, AdamW's β₁ = 0.9 and
    β₂ = 0.99, γ of 0.016 to 0.063, λ of 1e-4 to 5e-3, gradients clipped to 1.

    Args:
      learning_rate: γ; a number, or a traced scalar in a sweep.
      momentum: β, in [0, 1).
      nesterov: whether both optimizers look ahead by one step of their momentum.
      weight_decay: λ, decoupled and multiplied by γ.
      adam_b1: AdamW's decay of the first moment, in [0, 1).
      adam_b2: AdamW's decay of the second moment, in [0, 1).
      epsilon: added to the denominators of both optimizers, at least 0.
      clip_norm: largest global norm of the gradient; None does not clip.

    Returns:
      An optax transformation.

    Raises:
      ValueError: an argument outside its interval.
    """
    require_range("learning_rate", learning_rate, 0.0)
    require_range("momentum", momentum, 0.0, 1.0, exclude_high=True)
    require_range("weight_decay", weight_decay, 0.0)
    require_range("adam_b1", adam_b1, 0.0, 1.0, exclude_high=True)
    require_range("adam_b2", adam_b2, 0.0, 1.0, exclude_high=True)
    require_range("epsilon", epsilon, 0.0)
    return optax.chain(
        gradient_descent.clip(clip_norm),
        contrib.muon(
            learning_rate,
            beta=momentum,
            eps=epsilon,
            weight_decay=weight_decay,
            nesterov=nesterov,
            adam_b1=adam_b1,
            adam_b2=adam_b2,
            adam_weight_decay=weight_decay,
            muon_weight_dimension_numbers=_matrices,
        ),
    )


def _matrices(params: PyTree) -> PyTree:
    """Which axes of each tensor Muon takes as rows and columns; None leaves it to AdamW."""

    def axes(leaf: jax.Array) -> contrib.MuonDimensionNumbers | None:
        if leaf.ndim < 2:
            return None
        last = leaf.ndim - 1
        return contrib.MuonDimensionNumbers(reduction_axis=tuple(range(last)), output_axis=last)

    return jax.tree.map(axes, params)


@dataclasses.dataclass(frozen=True)
class LocalOptimizerEntry:
    """A local optimizer in the registry.

    Attributes:
      make: its keyword arguments are the hyperparameters, `learning_rate` among them.
      summary: one line for people.
      source: short citation.
      persists: whether each worker keeps the state from round to round, unless said otherwise.
      grid: values that a sweep tries by default, by hyperparameter.
    """

    make: Callable[..., optax.GradientTransformation]
    summary: str
    source: str
    persists: bool
    grid: Mapping[str, tuple[float, ...]]


LOCAL_OPTIMIZERS: Mapping[str, LocalOptimizerEntry] = {
    "local_sgd": LocalOptimizerEntry(
        local_sgd,
        "SGD, with clipping and weight decay if wanted",
        "Stich 2019",
        persists=False,
        grid={"learning_rate": (4.0, 2.0, 1.0, 0.5, 0.3, 0.1)},
    ),
    "local_adamw": LocalOptimizerEntry(
        local_adamw,
        "AdamW, inside DiLoCo",
        "Douillard et al. 2023",
        persists=True,
        grid={"learning_rate": (0.1, 0.03, 0.01, 0.003, 0.001)},
    ),
    "local_muon": LocalOptimizerEntry(
        local_muon,
        "Muon on matrices and kernels, AdamW on the rest, inside MuLoCo",
        "Thérien et al. 2025",
        persists=True,
        grid={"learning_rate": (0.3, 0.1, 0.05, 0.02, 0.005)},
    ),
}
"""Every local optimizer that ships, by the name that `local_opt` takes."""


def local_optimizer_name(local_opt: Any) -> str | None:
    """What a local optimizer is called in the registry, in optax or in gin; None if nowhere.

    Args:
      local_opt: what makes it, or an optax transformation, which has no name.
    """
    for name, entry in LOCAL_OPTIMIZERS.items():
        if entry.make is local_opt:
            return name
    made_by: str | None = getattr(local_opt, "__name__", None)
    for prefix, module in (("optax.", optax), ("optax.contrib.", contrib)):
        if made_by is not None and getattr(module, made_by, None) is local_opt:
            return prefix + made_by
    return made_by
