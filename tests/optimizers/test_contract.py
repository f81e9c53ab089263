"""What every rule of the registry promises as an optax transformation."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_rules import (
    DESIGNED,
    LEARNED,
    NAMES,
    RULES,
    TIMES_TRACED,
    compiled,
    hyperparameters,
    learned_optimizer,
    make_params,
    make_round,
    rule,
    run,
    shapes_and_dtypes,
    stacked,
    step,
    theta_of,
)
from small_tasks import assert_trees_close, assert_trees_equal

from comm_lopt.optimizers.full_precision import in_full_precision
from comm_lopt.optimizers.registry import optimizer_entry
from comm_lopt.tasks.averages import mean_of_squares

# Optax's Adam fails under strict promotion.
pytestmark = pytest.mark.usefixtures("ordinary_promotion")


@pytest.mark.parametrize("name", NAMES)
def test_rule_is_an_optax_transformation_that_takes_extra_arguments(name):
    transformation, params = rule(name), make_params()
    assert isinstance(transformation, optax.GradientTransformationExtraArgs)
    delta, workers = make_round(params)
    state = transformation.init(params)
    updates, new = transformation.update(
        delta, state, params, worker_deltas=workers, worker_squares=mean_of_squares(workers),
        value=jnp.float32(2.0), something_else=1,
    )  # fmt: skip
    assert shapes_and_dtypes(updates) == shapes_and_dtypes(params)
    assert shapes_and_dtypes(new) == shapes_and_dtypes(state)
    assert all(np.all(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(updates))


@pytest.mark.parametrize("name", NAMES)
def test_jit_agrees_with_plain_calls(name):
    params = make_params()
    state = jax.jit(rule(name).init)(params)
    assert_trees_equal(state, rule(name).init(params))
    plain = step(rule(name), params, state, make_round(params))
    jitted = run(name, params, [make_round(params)])
    assert_trees_close(jitted, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_parameters_agrees_with_single_calls(name):
    many = [jax.tree.map(lambda p, i=i: p + i, make_params()) for i in range(2)]
    a_round = make_round(make_params())
    singles = [run(name, params, [a_round]) for params in many]

    def one(params):
        return step(rule(name), params, rule(name).init(params), a_round)

    together = jax.jit(jax.vmap(one))(stacked(many))
    assert_trees_close(together, stacked(singles), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LEARNED)
def test_vmap_over_theta_agrees_with_single_calls(name):
    params = make_params()
    rounds = [make_round(params, seed) for seed in (1, 2)]
    thetas = [theta_of(name, seed) for seed in range(2)]
    _, state = run(name, params, rounds[:1])

    def train(theta):
        return step(rule(name, theta), params, state, rounds[1])

    together = jax.jit(jax.vmap(train))(stacked(thetas))
    singles = [
        compiled(name)(theta, *jax.tree.map(jnp.copy, (params, state)), rounds[1])
        for theta in thetas
    ]
    assert_trees_close(together, stacked(singles), rtol=1e-5, atol=1e-6)
    assert not np.allclose(together[0]["w"][0], together[0]["w"][1], atol=1e-6)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_scan_carries_the_state_and_agrees_with_a_loop_in_float32(name, dtype):
    params = make_params(dtype)
    # A learned rule is in full precision of itself, any other is by `as_upstream`.
    transformation = rule(name) if name in LEARNED else in_full_precision(rule(name))
    start = (params, transformation.init(params))
    rounds = [make_round(params, seed) for seed in range(3)]

    def one(carry, a_round):
        return step(transformation, *carry, a_round), None

    scanned, _ = jax.lax.scan(one, start, stacked(rounds))
    assert shapes_and_dtypes(scanned) == shapes_and_dtypes(start)
    assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(start[1]))
    after, state = scanned
    if dtype != jnp.float32:
        after = jax.tree.map(lambda p, r: p.astype(jnp.float32) + r, after, state.residual)
    looped = run(name, jax.tree.map(lambda p: p.astype(jnp.float32), params), rounds)
    assert_trees_close(after, looped[0], rtol=1e-5, atol=1e-6)
    looped_state = looped[1].inner if name in LEARNED else looped[1]
    assert_trees_close(state.inner, looped_state, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_buffers_can_be_donated_and_the_second_call_does_not_compile_again(name):
    params = make_params()
    carry = plain = (jax.tree.map(jnp.copy, params), rule(name).init(params))
    traced = []
    for seed in range(2):
        given = jax.tree.leaves(carry)
        plain = step(rule(name), *jax.tree.map(jnp.copy, plain), make_round(params, seed))
        carry = compiled(name)(theta_of(name), *carry, make_round(params, seed))
        assert all(leaf.is_deleted() for leaf in given)
        traced.append(TIMES_TRACED[name])
    assert_trees_close(carry, plain, rtol=1e-5, atol=1e-6)
    assert traced[0] == traced[1] > 0


@pytest.mark.parametrize("name", NAMES)
def test_all_is_finite_when_nothing_moves(name):
    params = make_params()
    state = run(name, params, [make_round(params, scale=0.0)] * 2)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_moves_where_nothing_moved(name):
    params = make_params()
    after, _ = run(name, params, [make_round(params, scale=0.0)])
    assert_trees_equal(after, params)


@pytest.mark.parametrize("name", DESIGNED)
def test_hand_designed_rule_descends_a_quadratic(name):
    params = make_params()
    curvature = {"w": 1.0, "b": 0.5}

    def loss(p):
        return sum(0.5 * c * jnp.sum(jnp.square(p[n])) for n, c in curvature.items())

    def one(carry, _):
        delta = jax.tree.map(lambda g: 0.1 * g, jax.grad(loss)(carry[0]))
        return step(rule(name), *carry, (delta, None)), None

    (after, _), _ = jax.lax.scan(one, (params, rule(name).init(params)), None, length=50)
    assert float(loss(after)) < 0.7 * float(loss(params))


@pytest.mark.parametrize("name", NAMES)
def test_default_grid_holds_accepted_hyperparameters_only(name):
    entry = optimizer_entry(name)
    assert entry.is_learned == (name in LEARNED)
    assert set(entry.grid) | set(hyperparameters(name)) <= set(
        inspect.signature(entry.make).parameters
    )
    for values in entry.grid.values():
        assert len(set(values)) == len(values) > 0
    for values in itertools.product(*entry.grid.values()):
        entry.make(**dict(zip(entry.grid, values, strict=True)))


@pytest.mark.parametrize("name", LEARNED)
def test_typed_and_raw_keys_give_the_same_theta(name):
    typed = learned_optimizer(name).init(jax.random.key(3))
    assert_trees_equal(typed, learned_optimizer(name).init(jax.random.PRNGKey(3)))
    assert np.any(np.asarray(typed["mlp"]["w0"]) != np.asarray(theta_of(name)["mlp"]["w0"]))


def test_unknown_optimizer_is_an_error_with_a_suggestion():
    with pytest.raises(ValueError, match="optimizer 'slowmow' is not known; did you mean 'SlowMo'"):
        optimizer_entry("slowmow")
