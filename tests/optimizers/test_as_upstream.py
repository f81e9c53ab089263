"""Every rule of the registry, and any of optax's, as an upstream `Optimizer`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_rules import (
    LEARNED,
    NAMES,
    NEEDS_THE_MEAN_ALONE,
    AlongRoots,
    compiled,
    learned_optimizer,
    make_params,
    make_round,
    rule,
    shapes_and_dtypes,
    theta_of,
)
from small_tasks import assert_trees_equal

from comm_lopt.optimizers.as_upstream import as_upstream
from comm_lopt.optimizers.full_precision import in_full_precision
from comm_lopt.optimizers.local_rate import local_rate_of
from comm_lopt.round_state import RoundState, between_rounds
from comm_lopt.tasks.averages import mean_of_squares
from comm_lopt.upstream import LearnedOptimizer, Optimizer

# Optax's Adam fails under strict promotion.
pytestmark = pytest.mark.usefixtures("ordinary_promotion")

MODEL_STATE = {"average": jnp.ones(2)}


@functools.cache
def make(name):
    if name in LEARNED:
        return learned_optimizer(name).opt_fn(theta_of(name))
    return as_upstream(rule(name), name)


@functools.cache
def updated(name):
    opt = make(name)
    return jax.jit(lambda s, d, r: opt.update(s, d, loss=jnp.float32(1.0), model_state=r))


def init(name, params):
    return make(name).init(params, MODEL_STATE, num_steps=10, key=jax.random.PRNGKey(0))


def a_round(params):
    """Δ, and the round state with the worker deltas that it is the mean of, and their squares."""
    delta, workers = make_round(params)
    return delta, RoundState(MODEL_STATE, workers, worker_squares=mean_of_squares(workers))


@pytest.mark.parametrize("name", NAMES)
def test_name_is_the_key_in_the_registry(name):
    assert make(name).name == name
    assert isinstance(make(name), Optimizer)
    if name in LEARNED:
        assert isinstance(learned_optimizer(name), LearnedOptimizer)
        assert learned_optimizer(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_update_takes_the_step_of_the_rule_and_counts_rounds(name):
    params = make_params()
    state = init(name, params)
    assert_trees_equal(make(name).get_params(state), params)
    new = updated(name)(state, *a_round(params))
    rule_state = state.transform_state if name in LEARNED else state.transform_state.inner
    donated = jax.tree.map(jnp.copy, (params, rule_state))
    after, _ = compiled(name)(theta_of(name), *donated, make_round(params))
    for leaf, expected, start in zip(
        *map(jax.tree.leaves, (make(name).get_params(new), after, params)), strict=True
    ):
        np.testing.assert_allclose(leaf, expected, rtol=1e-6)
        assert np.any(np.asarray(leaf) != np.asarray(start))
    assert (int(state.iteration), int(new.iteration)) == (0, 1)


@pytest.mark.parametrize("name", NAMES)
def test_state_never_keeps_the_worker_deltas(name):
    opt, params = make(name), make_params()
    start = init(name, params)
    for state in (start, updated(name)(start, *a_round(params))):
        rate = local_rate_of(state.transform_state)
        assert_trees_equal(opt.get_state(state), between_rounds(MODEL_STATE, rate))
        assert shapes_and_dtypes(state) == shapes_and_dtypes(start)
    # Upstream may also start from the model state of a round.
    restarted = opt.init(params, a_round(params)[1], num_steps=10)
    assert_trees_equal(opt.get_state(restarted), opt.get_state(start))


def test_state_keeps_the_local_optimizer_states():
    opt, params = make("SlowMo"), make_params()
    delta, carried = a_round(params)
    carried = carried._replace(worker_weights=jnp.ones(3), local_opt_states=jnp.ones((3, 2)))
    kept = opt.get_state(opt.update(init("SlowMo", params), delta, model_state=carried))
    assert isinstance(kept, RoundState)
    assert kept == RoundState(MODEL_STATE, local_opt_states=carried.local_opt_states)
    np.testing.assert_array_equal(kept.local_opt_states, carried.local_opt_states)


@pytest.mark.parametrize("name", NEEDS_THE_MEAN_ALONE)
def test_worker_deltas_are_not_needed(name):
    params = make_params()
    delta, round_state = a_round(params)
    with_deltas = updated(name)(init(name, params), delta, round_state)
    without = updated(name)(init(name, params), delta, MODEL_STATE)
    assert_trees_equal(with_deltas, without)


def test_any_optax_optimizer_is_a_global_optimizer():
    params, (delta, _) = make_params(), make_round(make_params())
    opt = as_upstream(optax.lion(0.1), "lion")
    state = opt.update(opt.init(params), delta, loss=jnp.float32(1.0))
    updates, _ = optax.lion(0.1).update(delta, optax.lion(0.1).init(params), params)
    assert_trees_equal(opt.get_params(state), optax.apply_updates(params, updates))
    assert opt.name == "lion"


def test_the_loss_is_the_value_of_optax_rules_that_ask_for_it():
    """Polyak's step is f(W) / ‖Δ‖² where the least loss is 0."""
    params, (delta, _) = make_params(), make_round(make_params())
    opt = as_upstream(optax.polyak_sgd(max_learning_rate=1e3))
    state = opt.update(opt.init(params), delta, loss=jnp.float32(1e-4))
    rate = 1e-4 / sum(float(jnp.sum(jnp.square(d))) for d in delta.values())
    for name, start in params.items():
        np.testing.assert_allclose(state.params[name], start - rate * delta[name], rtol=1e-5)


def test_worker_deltas_and_weights_reach_the_rule():
    def update(delta, state, params=None, *, worker_deltas, worker_weights, **extra):
        return jax.tree.map(lambda d: -jnp.tensordot(worker_weights, d, 1), worker_deltas), state

    opt = as_upstream(optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update))
    deltas, weights = jnp.asarray([[1.0, 2.0], [3.0, 4.0]]), jnp.asarray([0.0, 0.5])
    state = opt.update(
        opt.init(jnp.zeros(2)), jnp.ones(2), model_state=RoundState(None, deltas, weights)
    )
    np.testing.assert_array_equal(opt.get_params(state), [-1.5, -2.0])


def test_worker_squares_reach_the_rule():
    opt = AlongRoots().opt_fn({"rate": jnp.float32(0.5)})
    carried = RoundState(None, worker_squares=jnp.asarray([4.0, 16.0]))
    state = opt.update(opt.init(jnp.zeros(2)), jnp.ones(2), model_state=carried)
    np.testing.assert_array_equal(opt.get_params(state), [-1.0, -2.0])


def test_bfloat16_parameters_keep_small_steps():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    opt = as_upstream(optax.sgd(1.0))
    state = opt.init(params)
    for _ in range(8):
        state = jax.jit(opt.update)(state, {"w": jnp.full(3, 2.0**-10)})
    # 1 − 2⁻⁷, of which no single step would have been left.
    np.testing.assert_array_equal(state.params["w"].astype(np.float32), 1 - 2.0**-7)


def test_what_is_no_transformation_is_an_error():
    with pytest.raises(TypeError, match=r"0.1 is not an optax.GradientTransformation; pass for"):
        as_upstream(0.1)


def test_a_rule_without_parameters_is_an_error():
    transformation = in_full_precision(optax.sgd(1.0))
    with pytest.raises(ValueError, match="the rule needs params; pass update"):
        transformation.update(jnp.ones(2), transformation.init(jnp.ones(2)))
