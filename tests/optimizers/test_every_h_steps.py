"""Rounds of one worker as one transformation: against NumPy, optax.lookahead and `local_round`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_rules import AlongRoots
from small_tasks import (
    SoftmaxRegression,
    assert_trees_close,
    assert_trees_equal,
    numpy_worker,
    softmax_batches,
    softmax_loss_and_gradient,
)

from comm_lopt.optimizers.as_upstream import as_upstream
from comm_lopt.optimizers.every_h_steps import EveryHStepsState, every_h_steps
from comm_lopt.optimizers.learned.lagg import LAggA
from comm_lopt.optimizers.learned.lopt import LOptA
from comm_lopt.optimizers.rules import nesterov, slowmo
from comm_lopt.tasks.local_round import local_round

H, ROUNDS, RATE = 3, 2, 0.1
TASK = SoftmaxRegression()
BATCHES = [softmax_batches((1, H), 4, seed) for seed in range(ROUNDS)]


def learned(learned_opt):
    return learned_opt.transformation(learned_opt.init(jax.random.PRNGKey(0)))


def start():
    return TASK.init(jax.random.PRNGKey(1))


@functools.partial(jax.jit, static_argnums=0)
def train_step(transformation, params, state, batch):
    gradient = jax.grad(TASK.loss)(params, None, batch)
    updates, state = transformation.update(gradient, state, params)
    return optax.apply_updates(params, updates), state


def train(transformation, params, batches=BATCHES):
    """The parameters after each step of ordinary training, and the last state."""
    state, trajectory = transformation.init(params), []
    for a_round in batches:
        for h in range(H):
            batch = jax.tree.map(lambda leaf, h=h: leaf[0, h], a_round)
            params, state = train_step(transformation, params, state, batch)
            trajectory.append(params)
    return trajectory, state


def test_sgd_inside_and_nesterov_outside_is_what_numpy_computes():
    trajectory, state = train(every_h_steps(optax.sgd(RATE), nesterov(0.7, 0.9), H), start())
    weights = {n: np.asarray(value, np.float64) for n, value in start().items()}
    buffer = {n: np.zeros_like(value) for n, value in weights.items()}
    for number, batches in enumerate(BATCHES):
        within = dict(weights)
        for h in range(H - 1):
            batch = {n: value[0, h] for n, value in batches.items()}
            _, gradient = softmax_loss_and_gradient(within, batch)
            within = {n: within[n] - RATE * gradient[n] for n in within}
            assert_trees_close(trajectory[number * H + h], within)
        after, _ = numpy_worker(weights, batches, 0, H, RATE)
        for n in weights:
            delta = weights[n] - after[n]
            buffer[n] = 0.9 * buffer[n] + delta
            weights[n] = weights[n] - 0.7 * (0.9 * buffer[n] + delta)
        assert_trees_close(trajectory[number * H + H - 1], weights)
    assert int(state.count) == 0


@pytest.mark.parametrize("inner", [optax.sgd(RATE), optax.adam(0.01)], ids=["sgd", "adam"])
@pytest.mark.usefixtures("ordinary_promotion")
def test_sgd_outside_is_lookahead(inner):
    """Slow parameters of `optax.lookahead` are ours at the end of a round, the fast ones ours."""
    alpha = 0.3
    trajectory, _ = train(every_h_steps(inner, optax.sgd(alpha), H), start())
    lookahead = optax.lookahead(inner, sync_period=H, slow_step_size=alpha)
    params = optax.LookaheadParams.init_synced(start())
    state = lookahead.init(params)
    for number, ours in enumerate(trajectory):
        round_number, h = divmod(number, H)
        batch = jax.tree.map(lambda leaf, h=h: leaf[0, h], BATCHES[round_number])
        gradient = jax.grad(TASK.loss)(params.fast, None, batch)
        updates, state = lookahead.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        assert_trees_close(ours, params.fast)
        if h == H - 1:
            assert_trees_close(ours, params.slow)


@pytest.mark.parametrize("name", ["LOptA", "LAggA", "AlongRoots", "SlowMo"])
def test_a_round_is_a_local_round_of_one_worker(name):
    outer = {"LOptA": LOptA(), "LAggA": LAggA(1), "AlongRoots": AlongRoots()}.get(name)
    outer = slowmo(0.9, 1.0) if outer is None else learned(outer)
    trajectory, _ = train(every_h_steps(optax.sgd(RATE), outer, H), start())
    opt = as_upstream(outer, name)
    state = opt.init(start())

    @jax.jit
    def one_round(state, batches):
        out = local_round(
            TASK, state.params, None, jax.random.PRNGKey(0), batches, optax.sgd(RATE), 1, H,
            worker_squares=True,
        )  # fmt: skip
        updates, rule_state = opt.transformation.update(
            out.delta, state.transform_state, state.params, worker_deltas=out.worker_deltas,
            worker_squares=out.worker_squares,
        )  # fmt: skip
        return state.replace(
            params=optax.apply_updates(state.params, updates), transform_state=rule_state
        )

    for number, batches in enumerate(BATCHES):
        state = one_round(state, batches)
        assert_trees_close(trajectory[number * H + H - 1], state.params)


@pytest.mark.usefixtures("ordinary_promotion")
def test_the_inner_state_outlives_a_round_and_the_outer_one_changes_at_its_end():
    transformation = every_h_steps(optax.adam(0.01), slowmo(), H)
    params = start()
    state = transformation.init(params)
    for number in range(2 * H):
        before = state
        _, state = transformation.update(params, state, params)
        assert int(state.inner[0].count) == number + 1
        assert int(state.count) == (number + 1) % H
        if (number + 1) % H:
            assert_trees_equal(state.outer, before.outer)
            assert_trees_equal(state.start, before.start)
        else:
            assert np.any(np.asarray(state.outer[0].trace["w"] != before.outer[0].trace["w"]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_updates_bring_the_parameters_to_the_next_start(dtype):
    """To the bit, though an update is a difference of numbers of very different size."""
    transformation = every_h_steps(optax.sgd(1.0), optax.sgd(1.0), 1)
    params = {"w": jnp.asarray([1.0, 3e-3, 100.0, -1e-4], dtype)}
    state = transformation.init(params)
    for scale in (1.0, 1e-3, 1.7):
        updates, state = transformation.update(
            jax.tree.map(lambda p, s=scale: jnp.asarray(s, dtype) * p[::-1], params), state, params
        )
        params = optax.apply_updates(params, updates)
        assert updates["w"].dtype == params["w"].dtype == dtype
        np.testing.assert_array_equal(state.start["w"].astype(dtype), params["w"])
        assert state.start["w"].dtype == jnp.float32


def test_small_outer_steps_on_bfloat16_parameters_are_not_lost():
    """Inner steps of one ulp, of which the outer rate leaves a hundredth."""
    ulp = 2.0**-7
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    transformation = every_h_steps(optax.sgd(1.0), optax.sgd(0.01), 1)
    state, gradient = transformation.init(params), {"w": jnp.full(3, ulp, jnp.bfloat16)}
    for _ in range(20):
        updates, state = transformation.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(state.start["w"], 1 - 20 * 0.01 * ulp, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_is_frozen_inside_is_left_where_it_is(dtype):
    freeze = optax.multi_transform(
        {"trained": optax.sgd(0.5), "frozen": optax.set_to_zero()},
        {"w": "trained", "b": "frozen"},
    )
    transformation = every_h_steps(freeze, learned(LOptA(step_multiplier=0.1)), 2)
    params = {"w": jnp.full((2, 3), 0.3, dtype), "b": jnp.full(3, 0.3, dtype)}
    first, state = params, transformation.init(params)
    for _ in range(6):
        updates, state = jax.jit(transformation.update)(params, state, params)
        params = optax.apply_updates(params, updates)
    assert_trees_equal(params["b"], first["b"])
    assert np.all(np.asarray(params["w"] != first["w"]))


def test_works_in_scan_chain_and_vmap():
    outer = learned(LOptA())
    transformation = optax.chain(
        optax.clip_by_global_norm(0.5), every_h_steps(optax.sgd(RATE), outer, H)
    )
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), start())

    def one(carry, batch):
        params, state = carry
        gradient = jax.grad(TASK.loss)(params, None, batch)
        updates, state = transformation.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    batches = jax.tree.map(lambda *a: jnp.concatenate([leaf[0] for leaf in a]), *BATCHES)

    @jax.jit
    @jax.vmap
    def scanned(params):
        return jax.lax.scan(one, (params, transformation.init(params)), batches)[0]

    together, state = scanned(many)
    assert isinstance(state[1], EveryHStepsState)
    for number in range(2):
        single = jax.tree.map(lambda leaf, n=number: leaf[n], many)
        trajectory, _ = train(transformation, single)
        assert_trees_close(jax.tree.map(lambda leaf, n=number: leaf[n], together), trajectory[-1])


def test_the_outer_rule_is_computed_at_the_end_of_a_round_only():
    """It stands in a branch of its own."""
    transformation = every_h_steps(optax.sgd(RATE), optax.sgd(0.7, momentum=0.9), H)
    params = start()
    program = jax.make_jaxpr(transformation.update)(params, transformation.init(params), params)
    conditions = [equation for equation in program.eqns if equation.primitive.name == "cond"]
    assert len(conditions) == 1
    within, at_the_end = sorted(len(b.eqns) for b in conditions[0].params["branches"])
    assert within == 0 < at_the_end


def test_extra_arguments_reach_the_inner_optimizer():
    transformation = every_h_steps(optax.polyak_sgd(max_learning_rate=1e3), optax.sgd(1.0), H)
    params = {"w": jnp.ones(2)}
    updates, _ = transformation.update(
        {"w": jnp.full(2, 0.5)}, transformation.init(params), params, value=jnp.float32(0.25)
    )
    np.testing.assert_allclose(updates["w"], -0.25 / 0.5 * 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((optax.sgd(0.1), optax.sgd(1.0), 0), ValueError, "h=0: the number of steps in a round"),
        ((optax.sgd(0.1), optax.sgd(1.0), 2.5), TypeError, "h=2.5: .* is an integer"),
        ((0.1, optax.sgd(1.0), 2), TypeError, "inner=0.1 is not an optax.GradientTransformation"),
        ((optax.sgd(0.1), LOptA(), 2), TypeError, "outer=<.*LOptA.* is not an optax.Gradient"),
    ],
)
def test_argument_that_makes_no_sense_is_an_error(arguments, error, message):
    with pytest.raises(error, match=message):
        every_h_steps(*arguments)


def test_without_parameters_is_an_error():
    transformation = every_h_steps(optax.sgd(0.1), optax.sgd(1.0), 2)
    with pytest.raises(ValueError, match="every_h_steps needs params"):
        transformation.update(jnp.ones(2), transformation.init(jnp.ones(2)))
