"""Upstream's hand-designed optimizers, which main keeps in a module of their own."""

from __future__ import annotations

from comm_lopt.upstream._ready import FLAVOUR

if FLAVOUR == "released":
    from learned_optimization.optimizers.base import (
        SGD,
        SGDM,
        Adam,
        OptaxOptimizer,
        OptaxState,
        PiecewiseLinearAdam,
        RMSProp,
    )
else:
    from learned_optimization.optimizers.optax_opts import (
        SGD,
        SGDM,
        Adam,
        OptaxOptimizer,
        OptaxState,
        PiecewiseLinearAdam,
        RMSProp,
    )

__all__ = [
    "SGD",
    "SGDM",
    "Adam",
    "OptaxOptimizer",
    "OptaxState",
    "PiecewiseLinearAdam",
    "RMSProp",
]
