"""What all tests share: strict promotion of types and ranks, and small tasks."""

from collections.abc import Iterator

import jax
import pytest

# Before any test imports `learned_optimization`, which needs it to be importable.
import comm_lopt  # noqa: F401

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def ordinary_promotion() -> Iterator[None]:
    """JAX's default promotion, without which upstream's code and optax's Adam fail."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
