"""SlowMo against the equations of its paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_tasks import assert_trees_equal

from comm_lopt.optimizers.averaging import LocalSGD
from comm_lopt.optimizers.slowmo import SlowMo


def random_deltas(num_rounds):
    rng = np.random.default_rng(0)
    return [
        {"w": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), "b": jnp.float32(rng.normal())}
        for _ in range(num_rounds)
    ]


PARAMS = {"w": np.ones((3, 2), np.float32), "b": np.float32(2.0)}


def train(opt, deltas):
    state = opt.init(jax.tree.map(jnp.asarray, PARAMS), num_steps=len(deltas))
    trajectory = []
    for delta in deltas:
        state = opt.update(state, delta, loss=jnp.float32(0.0))
        trajectory.append(opt.get_params(state))
    return trajectory


@pytest.mark.parametrize("local_rate", [0.05, 0.5])
def test_slowmo_follows_the_equations_of_its_paper(local_rate):
    beta, alpha, deltas = 0.7, 0.6, random_deltas(3)
    x = {n: np.asarray(value, np.float64) for n, value in PARAMS.items()}
    u = {n: np.zeros_like(value) for n, value in x.items()}
    trajectory = train(SlowMo(beta, alpha), deltas)
    for delta, params in zip(deltas, trajectory, strict=True):
        for n in x:
            u[n] = beta * u[n] + np.asarray(delta[n], np.float64) / local_rate
            x[n] = x[n] - alpha * local_rate * u[n]
            np.testing.assert_allclose(params[n], x[n], rtol=1e-5, atol=1e-6)


def test_slowmo_without_momentum_is_local_sgd():
    deltas = random_deltas(3)
    slowmo = train(SlowMo(momentum=0.0, slow_learning_rate=1.0), deltas)
    assert_trees_equal(slowmo, train(LocalSGD(), deltas))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, r"momentum=1.0 lies outside \[0.0, 1.0\)"),
        ({"momentum": -0.1}, "momentum=-0.1 lies outside"),
        ({"slow_learning_rate": 0.0}, r"slow_learning_rate=0.0 lies outside \(0.0"),
    ],
)
def test_hyperparameter_out_of_range_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        SlowMo(**arguments)
