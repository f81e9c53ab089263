"""The learned optimizers against a slow version in plain NumPy, one parameter at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_features import TIME_SCALES, SlowAda, SlowMomenta, mlp_outputs
from small_tasks import SoftmaxRegression, softmax_batches

from comm_lopt.optimizers.learned.ada_features import AdaFeatures, factored_axes
from comm_lopt.optimizers.learned.lagg import LAgg, LAggA
from comm_lopt.optimizers.learned.lopt import LOpt, LOptA
from comm_lopt.optimizers.learned.momentum_features import MomentumFeatures
from comm_lopt.round_state import RoundState
from comm_lopt.tasks.local_optimizers import local_sgd
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily
from comm_lopt.upstream import single_task_to_family

K = 3
SHAPES = {
    "r0": (),
    "r1": (5,),
    "r2": (3, 4),
    "r2_square": (3, 3),
    "r3": (2, 4, 3),
    "r4": (2, 3, 4, 2),
    "r5": (2, 1, 2, 3, 2),
}
LAMBDA_1, LAMBDA_2 = 1.0, 0.05


def slow_update(theta, slow, param, worker_deltas, iteration):
    delta = worker_deltas.mean(0)
    slow.update(delta)
    features = {
        i: np.asarray(slow.features(i, param, worker_deltas, delta))
        for i in np.ndindex(param.shape)
    }
    time = [np.tanh(iteration / scale - 1) for scale in TIME_SCALES]
    new = param.copy()
    for i, (direction, magnitude) in mlp_outputs(theta["mlp"], features, time).items():
        new[i] -= LAMBDA_1 * direction * np.exp(LAMBDA_2 * magnitude)
    return new


def random_theta(learned_opt):
    theta = learned_opt.init(jax.random.PRNGKey(4))
    rng = np.random.default_rng(8)
    shifts = jax.tree.map(
        lambda x: jnp.asarray(0.05 * rng.normal(size=x.shape), jnp.float32), theta["features"]
    )
    biases = {
        name: jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32)
        for name, x in theta["mlp"].items()
        if name.startswith("b")
    }
    return {"features": shifts, "mlp": {**theta["mlp"], **biases}}


@pytest.mark.parametrize(
    ("learned_opt", "slow_class"),
    [
        (LAggA(K, step_multiplier=LAMBDA_1, exponent_multiplier=LAMBDA_2), SlowAda),
        (LAgg(K, step_multiplier=LAMBDA_1, exponent_multiplier=LAMBDA_2), SlowMomenta),
    ],
    ids=["LAggA", "LAgg"],
)
def test_learned_aggregator_is_the_slow_version(learned_opt, slow_class):
    rng = np.random.default_rng(0)
    theta = random_theta(learned_opt)
    opt = learned_opt.opt_fn(theta)
    params = {n: rng.normal(size=shape).astype(np.float32) for n, shape in SHAPES.items()}
    state = opt.init(jax.tree.map(jnp.asarray, params), num_steps=4)
    slow = {n: slow_class(theta, shape) for n, shape in SHAPES.items()}
    slow_params = {n: value.astype(np.float64) for n, value in params.items()}
    update = jax.jit(lambda s, g, m: opt.update(s, g, loss=None, model_state=m))
    for iteration in range(4):
        workers = {
            n: (0.1 * rng.normal(size=(K, *shape))).astype(np.float32)
            for n, shape in SHAPES.items()
        }
        mean = {n: value.mean(0) for n, value in workers.items()}
        state = update(state, mean, RoundState(None, workers))
        for n in SHAPES:
            before = slow_params[n]
            slow_params[n] = slow_update(
                theta, slow[n], before, workers[n].astype(np.float64), iteration
            )
            largest_step = np.max(np.abs(slow_params[n] - before))
            difference = np.max(np.abs(state.params[n] - slow_params[n]))
            assert difference < 1e-5 * max(largest_step, 1.0), (n, iteration)


@pytest.mark.parametrize(
    ("aggregator", "plain"), [(LAggA(1), LOptA()), (LAgg(1), LOpt())], ids=["LAggA", "LAgg"]
)
def test_aggregator_of_one_worker_is_the_optimizer_of_the_mean(aggregator, plain):
    theta = random_theta(plain)
    delta = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)
    params = jnp.ones((3, 4))
    results = []
    for learned_opt, model_state in ((aggregator, RoundState(None, delta[None])), (plain, None)):
        opt = learned_opt.opt_fn(theta)
        state = jax.jit(opt.update)(opt.init(params), delta, model_state=model_state)
        results.append(opt.get_params(state))
    np.testing.assert_array_equal(*results)


def num_weights(theta):
    return sum(leaf.size for leaf in jax.tree.leaves(theta))


@pytest.mark.parametrize(
    ("learned_opt", "mlp_weights", "num_decays"),
    [
        (LOptA(), 2402, 7),
        (LAggA(num_workers=8), 2626, 7),
        (LOpt(), (19 + 1) * 32 + 33 * 32 + 33 * 2, 0),
        (LAgg(num_workers=8), (26 + 1) * 32 + 33 * 32 + 33 * 2, 0),
    ],
    ids=["LOptA", "LAggA", "LOpt", "LAgg"],
)
def test_theta_has_the_sizes_of_the_paper(learned_opt, mlp_weights, num_decays):
    theta = learned_opt.init(jax.random.PRNGKey(0))
    assert num_weights(theta["mlp"]) == mlp_weights
    assert num_weights(theta["features"]) == num_decays


def test_new_weights_are_scaled_by_fan_in_and_each_layer_is_drawn_anew():
    mlp = LOptA(hidden_size=64, hidden_layers=3).init(jax.random.PRNGKey(0))["mlp"]
    for layer, fan_in in enumerate((39, 64, 64, 64)):
        weights = np.asarray(mlp[f"w{layer}"])
        # A normal distribution cut at two deviations has 0.88 of its deviation.
        np.testing.assert_allclose(weights.std() * np.sqrt(fan_in), 0.88, rtol=0.1)
        assert np.abs(weights).max() <= 2 / np.sqrt(fan_in)
        assert not np.any(mlp[f"b{layer}"])
    assert np.mean(mlp["w1"] == mlp["w2"]) < 0.01


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((), None),
        ((4,), None),
        ((4, 7), (0, 1)),
        ((7, 4), (1, 0)),
        ((3, 3), (0, 1)),
        ((3, 3, 5, 4), (3, 2)),
        ((4, 4, 2), (0, 1)),
    ],
)
def test_factored_axes_are_the_second_largest_and_the_largest(shape, axes):
    assert factored_axes(shape) == axes


@pytest.mark.parametrize("learned_opt", [LAggA(K), LAgg(K)], ids=["LAggA", "LAgg"])
@pytest.mark.parametrize("model_state", [None, {"mean": jnp.zeros(2)}])
def test_aggregator_without_worker_deltas_is_an_error_that_says_how_to_get_them(
    learned_opt, model_state
):
    opt = learned_opt.opt_fn(learned_opt.init(jax.random.PRNGKey(0)))
    with pytest.raises(ValueError, match=r"LAggA? needs .*worker_deltas=True"):
        opt.update(opt.init(jnp.ones(2)), jnp.ones(2), model_state=model_state)


def test_aggregator_of_another_number_of_workers_is_an_error():
    learned_opt = LAggA(K)
    opt = learned_opt.opt_fn(learned_opt.init(jax.random.PRNGKey(0)))
    state = RoundState(None, jnp.ones((5, 2)))
    with pytest.raises(ValueError, match=r"built for num_workers=3 .* num_workers=5"):
        opt.update(opt.init(jnp.ones(2)), jnp.ones(2), model_state=state)


def test_aggregator_trains_on_the_family_that_sends_worker_deltas():
    family = LocalSGDTaskFamily(
        single_task_to_family(SoftmaxRegression()), K, 2, local_sgd(0.1), worker_deltas=True
    )
    learned_opt = LAgg(K)
    opt = learned_opt.opt_fn(learned_opt.init(jax.random.PRNGKey(0)))
    task = family.task_fn(0)
    key = jax.random.PRNGKey(0)
    opt_state = opt.init(*task.init_with_state(key), num_steps=2)

    @jax.jit
    def one_round(opt_state, batches):
        params, state = opt.get_params_state(opt_state)
        loss_and_grad = jax.value_and_grad(task.loss_with_state, has_aux=True)
        (loss, state), delta = loss_and_grad(params, state, key, batches)
        return opt.update(opt_state, delta, loss=loss, model_state=state)

    for seed in range(2):
        opt_state = one_round(opt_state, softmax_batches((K, 2), 4, seed))
    assert opt.get_state(opt_state) is None
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(opt_state))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LAggA(num_workers=0), "num_workers=0: .* at least 1"),
        (lambda: LOptA(hidden_size=0), "hidden_size=0: .* at least 1"),
        (lambda: LOptA(hidden_layers=0), "hidden_layers=0: .* at least 1"),
        (lambda: LOptA(step_multiplier=0.0), "step_multiplier=0.0 lies outside"),
        (lambda: AdaFeatures(momentum_decays=(0.9, 1.0, 0.5)), r"decays lie in \[0, 1\)"),
        (lambda: AdaFeatures(adafactor_decays=(0.9,)), "3 momentum_decays and 1 adafactor"),
        (lambda: MomentumFeatures(decays=()), "at least one"),
    ],
)
def test_argument_that_makes_no_sense_is_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "learned_opt",
    [
        LOptA(features=AdaFeatures((0.5, 0.9), (0.9, 0.99), (0.8, 0.9))),
        LOptA(hidden_size=4, hidden_layers=1),
        LOpt(features=MomentumFeatures((0.5,)), hidden_layers=3),
    ],
)
def test_other_sizes_and_decays_work(learned_opt):
    theta = learned_opt.init(jax.random.PRNGKey(0))
    opt = learned_opt.opt_fn(theta)
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}
    state = jax.jit(opt.update)(opt.init(params), params)
    assert len(theta["mlp"]) == 2 * (learned_opt.hidden_layers + 1)
    assert not np.allclose(state.params["w"], params["w"], atol=1e-7)
