"""Local SGD as a task family."""

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learned_optimization.tasks import quadratics
from small_tasks import (
    SoftmaxRegression,
    assert_trees_close,
    assert_trees_equal,
    host_datasets,
    numpy_worker,
    pick,
    softmax_batches,
    softmax_loss_and_gradient,
)

from comm_lopt.optimizers.as_upstream import as_upstream
from comm_lopt.optimizers.rules import averaging
from comm_lopt.round_state import RoundState
from comm_lopt.tasks.data_parallel import DataParallelTaskFamily
from comm_lopt.tasks.local_optimizers import local_sgd
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily
from comm_lopt.upstream import Task, single_task_to_family

KEY = jax.random.PRNGKey(0)
RATE = 0.3


def make_family(task=None, num_workers=3, num_local_steps=4, cls=LocalSGDTaskFamily, **arguments):
    family = single_task_to_family(task or SoftmaxRegression())
    arguments = {"local_opt": local_sgd(RATE), **arguments}
    return cls(family, num_workers, num_local_steps, **arguments)


def task_and_params(family):
    task = family.task_fn(family.sample(KEY))
    return task, task.init(jax.random.PRNGKey(1))


def loss_and_gradient(task, params, batches, state=None):
    return jax.value_and_grad(task.loss_with_state, has_aux=True)(params, state, KEY, batches)


def union(batches):
    return {n: value.reshape(-1, *value.shape[3:]) for n, value in batches.items()}


def test_one_worker_one_step_and_averaging_is_a_plain_sgd_step():
    task, params = task_and_params(make_family(num_workers=1, num_local_steps=1))
    batches = softmax_batches((1, 1), 7)
    (loss, _), delta = loss_and_gradient(task, params, batches)
    opt = as_upstream(averaging())
    state = opt.update(opt.init(params, num_steps=1), delta, loss=loss)
    expected_loss, gradient = softmax_loss_and_gradient(params, pick(batches, 0, 0))
    expected = {n: np.asarray(params[n]) - RATE * gradient[n] for n in params}
    assert_trees_close(opt.get_params(state), expected)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)


def test_loss_is_the_mean_over_local_steps_and_its_gradient_is_the_pseudo_gradient():
    task, params = task_and_params(make_family())
    batches = softmax_batches((3, 4), 7)
    (loss, state), delta = loss_and_gradient(task, params, batches)
    workers = [numpy_worker(params, batches, k, 4, RATE) for k in range(3)]
    np.testing.assert_allclose(loss, np.mean([losses for _, losses in workers]), rtol=1e-5)
    expected = {
        n: np.asarray(params[n]) - np.mean([w[n] for w, _ in workers], axis=0) for n in params
    }
    assert_trees_close(delta, expected)
    assert state is None
    # Neither the value alone nor upstream's stateless form is another number.
    value, _ = task.loss_with_state(params, None, KEY, batches)
    np.testing.assert_array_equal(value, loss)
    value, stateless_delta = jax.value_and_grad(task.loss)(params, KEY, batches)
    np.testing.assert_array_equal(value, loss)
    assert_trees_equal(stateless_delta, delta)


def test_gradient_scales_with_the_cotangent():
    task, params = task_and_params(make_family())
    batches = softmax_batches((3, 4), 7)
    delta = jax.grad(task.loss)(params, KEY, batches)
    scaled = jax.grad(lambda p: 2.5 * task.loss(p, KEY, batches))(params)
    assert_trees_close(scaled, jax.tree.map(lambda leaf: 2.5 * leaf, delta))


def test_worker_deltas_come_in_a_round_state_and_their_mean_is_the_pseudo_gradient():
    task, params = task_and_params(make_family(worker_deltas=True, worker_squares=True))
    batches = softmax_batches((3, 4), 7)
    (_, state), delta = loss_and_gradient(task, params, batches)
    assert isinstance(state, RoundState)
    assert state.model_state is None
    for k in range(3):
        weights, _ = numpy_worker(params, batches, k, 4, RATE)
        mine = {n: leaf[k] for n, leaf in state.worker_deltas.items()}
        assert_trees_close(mine, {n: np.asarray(params[n]) - weights[n] for n in params})
    mean = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), state.worker_deltas)
    assert_trees_close(mean, delta, rtol=1e-6, atol=1e-7)
    squares = {n: np.square(leaf).mean(0) for n, leaf in state.worker_deltas.items()}
    assert_trees_close(state.worker_squares, squares, rtol=1e-5, atol=1e-7)


class CountingTask(Task):
    """Counts its calls in the model state, which its evaluation must not change."""

    def init_with_state(self, key):
        return jnp.ones(2), jnp.zeros((), jnp.int32)

    def loss_with_state(self, params, state, key, data):
        return jnp.sum(jnp.square(params)), state + 1

    def loss_with_state_and_aux(self, params, state, key, data):
        loss, state = self.loss_with_state(params, state, key, data)
        return loss, state, {"draw": jax.random.uniform(key)}


def test_evaluation_takes_no_local_step_and_sees_all_examples():
    task, params = task_and_params(make_family())
    batches = softmax_batches((3, 4), 7)
    loss, state, aux = task.loss_with_state_and_aux(params, None, KEY, batches)
    everything = union(batches)
    expected, _ = softmax_loss_and_gradient(params, everything)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert state is None
    logits = everything["x"] @ np.asarray(params["w"]) + np.asarray(params["b"])
    np.testing.assert_allclose(aux["mean_logit"], logits.mean(), rtol=1e-4)
    stateless_loss, stateless_aux = task.loss_and_aux(params, KEY, batches)
    np.testing.assert_array_equal(stateless_loss, loss)
    assert_trees_equal(stateless_aux, aux)


def test_evaluation_returns_the_model_state_unchanged():
    task = make_family(CountingTask()).task_fn(0)
    params, state = task.init_with_state(KEY)
    _, new_state = task.loss_with_state(params, state, KEY, ())
    assert int(new_state) == 4
    _, same_state, aux = task.loss_with_state_and_aux(params, new_state, KEY, ())
    assert int(same_state) == 4
    # The mean over K·H batches, each with a key of its own.
    keys = jax.random.split(KEY, 12)
    np.testing.assert_allclose(aux["draw"], np.mean(jax.vmap(jax.random.uniform)(keys)), rtol=1e-5)


class TupleTask(Task):
    """Least squares on batches that are tuples of floats, from host iterators."""

    def __init__(self):
        self.datasets = host_datasets(
            lambda split, i: (
                np.full((6, 2), 100 * split + i, np.float32),
                np.arange(6, dtype=np.float32) + i,
            )
        )

    def init(self, key):
        return jnp.asarray([0.5, -0.5], jnp.float32)

    def loss(self, params, key, data):
        x, y = data
        return jnp.mean(jnp.square(x @ params - y))


def test_batches_of_host_iterators_may_be_tuples():
    family = make_family(TupleTask(), num_workers=2, num_local_steps=3, local_opt=local_sgd(1e-3))
    x, y = next(family.datasets.train)
    assert (x.shape, y.shape) == ((2, 3, 6, 2), (2, 3, 6))
    np.testing.assert_array_equal(x[:, :, 0, 0], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(next(family.datasets.outer_valid)[0][0, :, 0, 0], [200, 201, 202])
    task, params = task_and_params(family)
    (loss, _), delta = loss_and_gradient(task, params, (x, y))
    losses, finals = [], []
    for k in range(2):
        w = np.asarray(params, np.float64)
        for h in range(3):
            error = x[k, h] @ w - y[k, h]
            losses.append(np.mean(error**2))
            w = w - 1e-3 * 2 * x[k, h].T @ error / 6
        finals.append(w)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(delta, np.asarray(params) - np.mean(finals, 0), rtol=1e-5)


def test_inner_batch_is_an_error_that_says_where_round_batches_come_from():
    family = make_family(TupleTask(), num_workers=2, num_local_steps=3)
    task, params = task_and_params(family)
    with pytest.raises(ValueError, match=r"batch\[0\] has shape \(6, 2\).*own `datasets`"):
        loss_and_gradient(task, params, next(family.inner.datasets.train))


def test_family_without_data_works():
    inner = single_task_to_family(quadratics.QuadraticTask(dim=4))
    family = LocalSGDTaskFamily(inner, 2, 3, local_sgd(0.1))
    assert family.datasets is None
    task, params = task_and_params(family)
    (loss, _), delta = loss_and_gradient(task, params, ())
    p = np.asarray(params)
    np.testing.assert_allclose(delta, p * (1 - 0.8**3), rtol=1e-5)
    np.testing.assert_allclose(loss, np.sum(p**2) * np.mean([1, 0.8**2, 0.8**4]), rtol=1e-5)


def test_tasks_of_a_family_differ_by_their_sample():
    family = LocalSGDTaskFamily(quadratics.FixedDimQuadraticFamily(3), 2, 3, local_sgd(0.1))
    cfgs = [family.sample(jax.random.PRNGKey(seed)) for seed in (0, 1)]
    params = jnp.asarray([1.0, 2.0, 3.0], jnp.float32)
    deltas = [jax.grad(family.task_fn(cfg).loss)(params, KEY, ()) for cfg in cfgs]
    assert not np.allclose(deltas[0], deltas[1])


def test_data_parallel_gradient_is_that_of_the_union_of_the_batches():
    family = make_family(cls=DataParallelTaskFamily)
    assert isinstance(family, DataParallelTaskFamily)
    assert (family.num_workers, family.num_local_steps) == (3, 4)
    task, params = task_and_params(family)
    batches = softmax_batches((3, 4), 7)
    (loss, _), gradient = loss_and_gradient(task, params, batches)
    expected_loss, expected = softmax_loss_and_gradient(params, union(batches))
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    assert_trees_close(gradient, expected)


def test_data_parallel_step_updates_the_model_state_once():
    task = make_family(CountingTask(), cls=DataParallelTaskFamily).task_fn(0)
    params, state = task.init_with_state(KEY)
    _, state = task.loss_with_state(params, state, KEY, ())
    assert int(state) == 1


class AveragingTask(SoftmaxRegression):
    """Its model state becomes the mean of the batch."""

    def init_with_state(self, key):
        return self.init(key), jnp.zeros(5)

    def loss_with_state(self, params, state, key, data):
        return self.loss(params, key, data), jnp.mean(data["x"], axis=0)


def test_data_parallel_model_state_is_the_mean_over_all_batches():
    task = make_family(AveragingTask(), cls=DataParallelTaskFamily).task_fn(0)
    batches = softmax_batches((3, 4), 7)
    _, state = loss_and_gradient(task, task.init(KEY), batches, jnp.zeros(5))[0]
    np.testing.assert_allclose(state, union(batches)["x"].mean(0), rtol=1e-5, atol=1e-6)


def test_names_say_what_is_wrapped():
    family = make_family()
    assert family.name == "LocalSGD_SoftmaxRegression"
    assert family.task_fn(0).name == "LocalSGD_SoftmaxRegression"
    assert make_family(cls=DataParallelTaskFamily).name == "DataParallel_SoftmaxRegression"


def test_normalizer_is_that_of_the_inner_task():
    class Capped(SoftmaxRegression):
        def normalizer(self, loss):
            return jnp.minimum(loss, 2.0)

    assert float(make_family(Capped()).task_fn(0).normalizer(jnp.float32(5.0))) == 2.0


@pytest.mark.parametrize("name", ["num_workers", "num_local_steps"])
@pytest.mark.parametrize("value", [0, -3])
def test_fewer_than_one_worker_or_step_is_an_error(name, value):
    with pytest.raises(ValueError, match=rf"{name}={value}: .* must be at least 1"):
        make_family(**{name: value})


@pytest.mark.parametrize("name", ["num_workers", "num_local_steps"])
@pytest.mark.parametrize("value", [2.0, "2", True, None])
def test_number_that_is_no_integer_is_an_error(name, value):
    with pytest.raises(TypeError, match=rf"{name}={value!r}: .* is an integer"):
        make_family(**{name: value})


def test_task_in_place_of_a_family_is_an_error_that_says_what_to_call():
    with pytest.raises(TypeError, match="single_task_to_family"):
        LocalSGDTaskFamily(SoftmaxRegression())


@pytest.mark.parametrize(
    "local_opt",
    [0.1, as_upstream(optax.sgd(1.0)), lambda learning_rate=0.1: learning_rate, lambda rate: rate],
)
def test_local_optimizer_that_is_not_optax_is_an_error(local_opt):
    with pytest.raises(TypeError, match="is no optax.GradientTransformation and makes none"):
        make_family(local_opt=local_opt)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": -0.1}, "learning_rate=-0.1 lies outside"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0 lies outside"),
        ({"clip_norm": 0.0}, r"clip_norm=0.0 lies outside \(0.0"),
    ],
)
def test_local_sgd_rejects_what_makes_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        local_sgd(**arguments)


def rates_family(**arguments):
    task = SoftmaxRegression()
    task.datasets = host_datasets(lambda split, i: softmax_batches((), 4, seed=i))
    return LocalSGDTaskFamily(single_task_to_family(task), 2, 2, **arguments)


def test_each_task_draws_its_own_local_learning_rate():
    family = rates_family(local_learning_rate=(0.01, 1.0))
    configs = jax.vmap(family.sample)(jax.random.split(KEY, 1000))
    rates = np.asarray(configs["local_learning_rate"])
    assert 0.01 <= rates.min() < 0.012 and 0.83 < rates.max() <= 1.0
    assert abs(np.mean(rates < 0.1) - 0.5) < 0.06


def test_rates_and_participation_of_every_library_are_numbers():
    family = rates_family(
        local_learning_rate=np.asarray([0.25, 1.0], np.float32), participation=np.asarray(1)
    )
    assert family.local_learning_rate == (0.25, 1.0)
    assert type(family.local_learning_rate[0]) is float
    assert family.participation == 1


def test_local_steps_are_taken_with_the_rate_that_was_drawn():
    family = rates_family(local_learning_rate=(0.01, 1.0))
    cfg = family.sample(KEY)
    fixed = rates_family(local_opt=local_sgd(float(cfg["local_learning_rate"])))
    batches = softmax_batches((2, 2), 4)
    params = family.task_fn(cfg).init(KEY)
    delta = jax.grad(family.task_fn(cfg).loss)(params, KEY, batches)
    expected = jax.grad(fixed.task_fn(fixed.sample(KEY)).loss)(params, KEY, batches)
    assert_trees_close(delta, expected)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"local_learning_rate": (0.1,)}, "one rate or .smallest, largest."),
        ({"local_learning_rate": (0.0, 1.0)}, "or .smallest, largest."),
        ({"local_learning_rate": (1.0, 0.1)}, "or .smallest, largest."),
        ({"local_opt": optax.adamw}, "no learning rate of its own"),
        ({"local_learning_rate": (0.1, 1.0), "local_opt": local_sgd(0.1)}, "beside an optax"),
    ],
)
def test_rates_that_are_no_range_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        rates_family(**arguments)


def test_rate_is_gins_where_none_is_given_and_the_family_tells_it():
    with gin.unlock_config():
        gin.parse_config("local_sgd.learning_rate = 0.03")
    try:
        family = rates_family()
    finally:
        gin.clear_config()
    assert family.local_learning_rate == 0.03
    assert rates_family(local_opt=optax.sgd, local_learning_rate=0.2).local_learning_rate == 0.2
    assert rates_family(local_opt=optax.sgd(0.2)).local_learning_rate is None
