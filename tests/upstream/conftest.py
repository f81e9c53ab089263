"""Fixtures of the tests of `comm_lopt.upstream`."""

from collections.abc import Iterator

import gin
import jax
import pytest

# Before any test imports `learned_optimization`, which needs it to be importable.
import comm_lopt.upstream  # noqa: F401


@pytest.fixture
def fresh_gin() -> Iterator[None]:
    """An empty, unlocked gin configuration, before and after the test."""
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture(autouse=True)
def ordinary_promotion() -> Iterator[None]:
    """JAX's default promotion of types and ranks, without which upstream's estimators fail."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
