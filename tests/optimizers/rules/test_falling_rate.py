"""γ that falls in a line: its course, the rule inside, and the local steps that heed it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_tasks import assert_trees_equal

import comm_lopt
from comm_lopt.optimizers.local_rate import local_rate_of, scaled_by, with_num_rounds
from comm_lopt.optimizers.rules import falling_nesterov, falling_rate, nesterov

DELTA = {"w": jnp.asarray([0.1, -0.2])}
PARAMS = {"w": jnp.ones(2)}


def rates(rule, num_rounds, rounds):
    """The local rate before each round, and after the last."""
    state = with_num_rounds(rule.init(PARAMS), num_rounds)
    found = [float(local_rate_of(state))]
    for _ in range(rounds):
        _, state = rule.update(DELTA, state, PARAMS)
        found.append(float(local_rate_of(state)))
    return found


@pytest.mark.parametrize(
    ("decay", "num_rounds", "expected"),
    [
        (1.0, 4, [1.0, 0.75, 0.5, 0.25, 0.25, 0.25]),
        (2.0, 4, [1.0, 0.5625, 0.25, 0.0625, 0.0625, 0.0625]),
        (0.0, 4, [1.0] * 6),
        (1.0, None, [1.0] * 6),
    ],
)
def test_the_rate_falls_to_that_of_the_last_round(decay, num_rounds, expected):
    found = rates(falling_nesterov(decay=decay), num_rounds, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_steps_are_those_of_the_rule_inside():
    ours, theirs = falling_nesterov(0.4, 0.7), nesterov(0.4, 0.7)
    states = [with_num_rounds(ours.init(PARAMS), 3), theirs.init(PARAMS)]
    for _ in range(3):
        found, states[0] = ours.update(DELTA, states[0], PARAMS)
        expected, states[1] = theirs.update(DELTA, states[1], PARAMS)
        assert_trees_equal(found, expected)
    assert np.all(np.asarray(found["w"]) != 0)


def test_a_rule_that_wants_the_loss_is_given_it():
    seen = []

    def update(delta, state, params=None, *, value, **extra):
        seen.append(value)
        return delta, state

    inner = optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
    rule = falling_rate(inner)
    rule.update(DELTA, rule.init(PARAMS), PARAMS, value=2.5)
    assert seen == [2.5]


def test_local_steps_are_shorter_in_later_rounds():
    """With SGD and the same batch Δ of H = 1 is γ times the gradient."""
    outer = falling_rate(optax.sgd(0.0))
    inner = comm_lopt.local_sgd(0.5)
    state = with_num_rounds(outer.init(PARAMS), 2)
    sizes = []
    for _ in range(2):
        local = scaled_by(inner, local_rate_of(state))
        steps, _ = local.update(DELTA, local.init(PARAMS), PARAMS)
        sizes.append(steps["w"])
        _, state = outer.update(DELTA, state, PARAMS)
    np.testing.assert_allclose(sizes[0], -0.5 * DELTA["w"], rtol=1e-6)
    np.testing.assert_allclose(sizes[1], 0.5 * sizes[0], rtol=1e-6)


def test_a_power_below_zero_is_an_error():
    with pytest.raises(ValueError, match=r"decay=-1.0 lies outside"):
        falling_nesterov(decay=-1.0)


def test_it_can_be_tuned_over_a_traced_power():
    @jax.jit
    def last(decay):
        rule = falling_nesterov(decay=decay)
        state = with_num_rounds(rule.init(PARAMS), 2)
        return local_rate_of(rule.update(DELTA, state, PARAMS)[1])

    np.testing.assert_allclose(last(jnp.float32(2.0)), 0.25)
