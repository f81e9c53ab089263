"""Steering that is not learned has no part of theta, and steers as one at its start."""

import jax.numpy as jnp
import numpy as np
import pytest

import comm_lopt


@pytest.mark.parametrize("undone", [False, True])
def test_steering_that_is_not_learned_steers_as_one_that_was_not_meta_trained(undone):
    learned, fixed = comm_lopt.Steering(learned=True), comm_lopt.Steering()
    assert fixed.init(2) == {}
    state = learned.start((), jnp.int32(0))._replace(last_loss=jnp.float32(1.0))
    seen = jnp.asarray([0.5, -0.2], jnp.float32), jnp.float32(0.8), jnp.asarray(undone)
    expected = learned.after(learned.init(2), state, *seen)
    np.testing.assert_array_equal(fixed.after({}, state, *seen), expected)
    np.testing.assert_allclose(expected[0], 0.25 if undone else np.exp(0.1), rtol=1e-6)


def test_it_is_told_with_theta():
    rule = comm_lopt.LOptR(steering=comm_lopt.Steering(learned=True))
    assert comm_lopt.LOptR.from_hparams(rule.hparams()).steering == rule.steering
