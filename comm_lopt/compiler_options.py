"""How much a program is optimized that takes longer to compile than to run."""

from __future__ import annotations

import jax

__all__ = ["optimization_level"]


def optimization_level(level: int) -> dict[str, int] | None:
    """`compiler_options` of `jax.jit` for a level of optimization, 0 to 3, on CPUs; None elsewhere.

    On a CPU level 1 takes two thirds of the default's time to compile a round, and rounds are as
    fast; level 0 takes a fifth to compile the start of a run.
    """
    return {"xla_backend_optimization_level": level} if jax.default_backend() == "cpu" else None
