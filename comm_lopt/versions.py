"""Versions of what produced a result."""

from __future__ import annotations

import importlib.metadata
import platform

from comm_lopt import upstream

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """Returns the versions of Python, of this package and of what it computes with."""
    found = {"python": platform.python_version(), "learned_optimization": upstream.VERSION}
    for package in ("comm-lopt", "jax", "jaxlib", "numpy", "optax"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
