"""Checks of arguments: numbers of every library are numbers, and what is none is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from comm_lopt.checks import require_at_least_one, require_range

NUMBERS = [int, np.int64, np.uint8, np.asarray, jnp.int32, jnp.asarray]


@pytest.mark.parametrize("kind", NUMBERS)
def test_counts_of_every_library_become_pythons(kind):
    number = require_at_least_one("n", kind(3), "workers")
    assert number == 3 and type(number) is int


@pytest.mark.parametrize("value", [3.0, np.float64(3), "3", True, np.bool_(True), None, [3],
                                   np.asarray([3]), jnp.asarray(True)])  # fmt: skip
def test_what_is_no_count_is_told_with_its_name(value):
    with pytest.raises(TypeError, match=r"^n=.*: the number of workers is an integer"):
        require_at_least_one("n", value, "workers")


@pytest.mark.parametrize("kind", [float, np.float64, np.float32, np.asarray, jnp.float32])
def test_numbers_of_every_library_become_pythons(kind):
    number = require_range("x", kind(0.5), 0.0, 1.0)
    assert number == 0.5 and type(number) is float
    with pytest.raises(ValueError, match=r"^x=.*1\.5.* lies outside \[0\.0, 1\.0\]"):
        require_range("x", kind(1.5), 0.0, 1.0)


@pytest.mark.parametrize("value", ["0.5", None, True, [0.5], np.asarray([0.5]), 1j])
def test_what_is_no_number_is_told_with_its_name(value):
    with pytest.raises(TypeError, match=r"^x=.* is not a number"):
        require_range("x", value, 0.0)


def test_traced_numbers_pass():
    assert jax.jit(lambda x: require_range("x", x, 0.0, 1.0))(5.0) == 5.0
