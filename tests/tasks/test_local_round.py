"""The one local round, against plain NumPy loops."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify
from small_tasks import (
    SoftmaxRegression,
    assert_trees_close,
    assert_trees_equal,
    numpy_worker,
    pick,
    softmax_batches,
    softmax_loss_and_gradient,
)

from comm_lopt.tasks.local_optimizers import local_sgd
from comm_lopt.tasks.local_round import WORKER_AXIS, local_round
from comm_lopt.upstream import Task

KEY = jax.random.PRNGKey(0)
RATE = 0.3


def run_round(task, params, batches, num_workers, num_local_steps, local_opt=None, **changes):
    arguments = {"model_state": None, "key": KEY, **changes}
    return local_round(
        task,
        params,
        batches=batches,
        local_opt=local_opt or local_sgd(RATE),
        num_workers=num_workers,
        num_local_steps=num_local_steps,
        **arguments,
    )


@pytest.fixture
def task():
    return SoftmaxRegression()


@pytest.fixture
def params(task):
    return task.init(jax.random.PRNGKey(1))


def test_mean_of_workers_weights_is_that_of_a_plain_numpy_loop(task, params):
    num_workers, num_local_steps = 3, 4
    batches = softmax_batches((num_workers, num_local_steps), 7)
    out = run_round(task, params, batches, num_workers, num_local_steps)
    workers = [numpy_worker(params, batches, k, num_local_steps, RATE) for k in range(num_workers)]
    mean = {n: np.mean([w[n] for w, _ in workers], axis=0) for n in params}
    new = jax.tree.map(jnp.subtract, params, out.delta)
    assert_trees_close(new, mean)
    np.testing.assert_allclose(out.losses, [losses for _, losses in workers], rtol=1e-5)
    deltas = {n: np.stack([np.asarray(params[n]) - w[n] for w, _ in workers]) for n in params}
    assert_trees_close(out.worker_deltas, deltas)


def test_one_local_step_is_learning_rate_times_gradient_on_the_union(task, params):
    batches = softmax_batches((3, 1), 7)
    out = run_round(task, params, batches, 3, 1)
    union = {name: value.reshape(21, *value.shape[3:]) for name, value in batches.items()}
    loss, gradient = softmax_loss_and_gradient(params, union)
    assert_trees_close(out.delta, {n: RATE * g for n, g in gradient.items()})
    np.testing.assert_allclose(np.mean(out.losses), loss, rtol=1e-5)


def test_workers_with_the_same_data_are_as_one(task, params):
    one = softmax_batches((1, 4), 7)
    same = {name: np.repeat(value, 3, axis=0) for name, value in one.items()}
    three = run_round(task, params, same, 3, 4)
    single = run_round(task, params, one, 1, 4)
    assert_trees_close(three.delta, single.delta)
    np.testing.assert_allclose(np.mean(three.losses), np.mean(single.losses), rtol=1e-6)


def test_clipping_and_weight_decay_follow_their_formula(task, params):
    clip, decay = 0.05, 0.2
    batches = softmax_batches((2, 3), 7)
    out = run_round(task, params, batches, 2, 3, local_sgd(RATE, clip, decay))
    finals = []
    for k in range(2):
        weights = {n: np.asarray(value, np.float64) for n, value in params.items()}
        for h in range(3):
            _, g = softmax_loss_and_gradient(weights, pick(batches, k, h))
            norm = np.sqrt(sum(np.sum(value**2) for value in g.values()))
            assert norm > clip
            weights = {
                n: weights[n] - RATE * (g[n] * clip / norm + decay * weights[n]) for n in weights
            }
        finals.append(weights)
    expected = {n: np.asarray(params[n]) - (finals[0][n] + finals[1][n]) / 2 for n in params}
    assert_trees_close(out.delta, expected)


def test_clipping_leaves_a_small_gradient_alone(task, params):
    batches = softmax_batches((2, 3), 7)
    clipped = run_round(task, params, batches, 2, 3, local_sgd(RATE, clip_norm=1e3))
    assert_trees_close(clipped.delta, run_round(task, params, batches, 2, 3).delta)


@pytest.mark.usefixtures("ordinary_promotion")
def test_local_optimizer_starts_afresh_each_round(task, params):
    batches = softmax_batches((2, 2), 7)
    local_opt = optax.adam(0.1)
    step = jax.jit(lambda p: run_round(task, p, batches, 2, 2, local_opt).delta)
    second = jax.tree.map(jnp.subtract, params, step(params))
    # Adam's very first step has the size of the learning rate in every coordinate, whatever
    # the gradient; with moments left over from an earlier round it would not.
    out = run_round(task, second, {n: b[:, :1] for n, b in batches.items()}, 2, 1, local_opt)
    for delta in jax.tree.leaves(out.worker_deltas):
        np.testing.assert_allclose(np.abs(delta), 0.1, rtol=1e-4)
    # And a round is a function of weights, key and batches alone.
    assert_trees_equal(step(second), step(second))


class StatefulTask(Task):
    """Has a running mean (float), which the loss reads, and a counter (integer)."""

    def loss_with_state(self, params, state, key, data):
        mean = jnp.mean(data["x"], axis=0)
        loss = 0.5 * jnp.sum(jnp.square(params - mean)) + jnp.sum(params * state["mean"])
        new = {
            "mean": 0.9 * state["mean"] + 0.1 * mean,
            "count": state["count"] + data["increment"],
        }
        return loss, new


def stateful_problem(increments):
    rng = np.random.default_rng(3)
    num_workers, num_local_steps = np.shape(increments)
    batches = {
        "x": rng.normal(size=(num_workers, num_local_steps, 6, 4)).astype(np.float32),
        "increment": np.asarray(increments, np.int32),
    }
    state = {"mean": jnp.arange(4, dtype=jnp.float32), "count": jnp.asarray(5, jnp.int32)}
    return batches, state, jnp.ones(4)


@pytest.mark.parametrize(
    ("weights", "shares"),
    # Where nobody takes part nothing moves, and loss and model state are those of all.
    [(None, [1 / 3] * 3), ([3.0, 0.0, 1.0], [0.75, 0.0, 0.25]), ([0.0] * 3, [1 / 3] * 3)],
)
def test_model_state_goes_through_the_local_steps_and_is_averaged(weights, shares):
    batches, state, params = stateful_problem(np.ones((3, 4)))
    given = None if weights is None else jnp.asarray(weights, jnp.float32)
    out = run_round(StatefulTask(), params, batches, 3, 4, model_state=state, weights=given)
    steps, means, losses = [], [], []
    for k in range(3):
        weights_k, mean = np.ones(4), np.arange(4.0)
        for h in range(4):
            batch_mean = batches["x"][k, h].mean(0)
            losses.append(0.5 * np.sum((weights_k - batch_mean) ** 2) + np.sum(weights_k * mean))
            weights_k = weights_k - RATE * (weights_k - batch_mean + mean)
            mean = 0.9 * mean + 0.1 * batch_mean
        steps.append(1 - weights_k)
        means.append(mean)
    delta = shares @ np.asarray(steps) if weights != [0.0] * 3 else np.zeros(4)
    np.testing.assert_allclose(out.delta, delta, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        out.model_state["mean"], shares @ np.asarray(means), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(out.loss, shares @ np.reshape(losses, (3, 4)).mean(1), rtol=1e-5)
    assert out.model_state["count"].dtype == jnp.int32
    assert int(out.model_state["count"]) == 9


@pytest.mark.parametrize("errors", [checkify.user_checks, checkify.all_checks])
@pytest.mark.parametrize(("last_increment", "reported"), [(1, False), (2, True)])
def test_disagreeing_integers_are_reported_by_checkify(errors, last_increment, reported):
    batches, state, params = stateful_problem([[1, 1], [1, 1], [1, last_increment]])

    def one_round(state):
        out = run_round(StatefulTask(), params, batches, 3, 2, model_state=state)
        return out.model_state

    error, _ = checkify.checkify(jax.jit(one_round), errors=errors)(state)
    message = error.get()
    assert (message is not None) == reported
    if reported:
        assert "workers disagree on an integer leaf" in message


class KeyTask(Task):
    """Its loss is a number drawn with the key."""

    def loss(self, params, key, data):
        return jax.random.uniform(key) + 0.0 * jnp.sum(params)


def test_every_worker_and_local_step_has_its_own_key():
    out = run_round(KeyTask(), jnp.ones(2), (), 4, 5)
    assert out.losses.shape == (4, 5)
    assert len(np.unique(out.losses)) == 20
    again = run_round(KeyTask(), jnp.ones(2), (), 4, 5)
    np.testing.assert_array_equal(out.losses, again.losses)
    other = run_round(KeyTask(), jnp.ones(2), (), 4, 5, key=jax.random.PRNGKey(9))
    assert not np.intersect1d(out.losses, other.losses).size


def count_equations(jaxpr):
    """Equations of a jaxpr and of all jaxprs inside it."""
    total = 0
    for equation in jaxpr.eqns:
        total += 1
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            total += count_equations(inner) if hasattr(inner, "eqns") else 0
    return total


def test_traced_program_does_not_grow_with_local_steps(task, params):
    sizes = []
    for num_local_steps in (2, 32):
        batches = softmax_batches((3, num_local_steps), 7)

        def one_round(params, batches, num_local_steps=num_local_steps):
            return run_round(task, params, batches, 3, num_local_steps)

        sizes.append(count_equations(jax.make_jaxpr(one_round)(params, batches).jaxpr))
    assert sizes[0] == sizes[1]
    assert sizes[0] > 20  # The scan's body is counted.


@pytest.mark.parametrize("shape", [(2, 4), (4, 3), (4,)])
def test_batch_of_wrong_leading_shape_is_an_error_that_names_it(task, params, shape):
    batches = {"x": np.zeros((3, 4, 7, 5), np.float32), "y": np.zeros(shape, np.int32)}
    with pytest.raises(ValueError, match=r"batch\['y'\] has shape .*\[K, H\] = \[3, 4\]") as error:
        run_round(task, params, batches, 3, 4)
    assert str(shape) in str(error.value)


class Records(logging.Handler):
    def __init__(self):
        super().__init__()
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@pytest.fixture
def absl_messages():
    handler, logger = Records(), logging.getLogger("absl")
    logger.addHandler(handler)
    yield handler.messages
    logger.removeHandler(handler)


def test_no_warning_where_there_is_no_mesh(task, params, absl_messages):
    filters = list(logging.getLogger("absl").filters)
    run_round(task, params, softmax_batches((3, 2), 7), 3, 2)
    assert absl_messages == []
    # Other messages come through, and no filter is left behind.
    logging.getLogger("absl").warning("something else")
    assert absl_messages == ["something else"]
    assert logging.getLogger("absl").filters == filters


def test_mesh_of_one_device_gives_the_same_numbers(task, params, absl_messages):
    batches = softmax_batches((3, 2), 7)
    plain = run_round(task, params, batches, 3, 2)
    axis_types = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((1,), (WORKER_AXIS,), axis_types=axis_types)
    with jax.set_mesh(mesh):
        meshed = jax.jit(lambda p, b: run_round(task, p, b, 3, 2))(params, batches)
    assert_trees_close(meshed, plain)
    assert absl_messages == []
