"""The local rate that a rule steers: where it is found, and that every kind of loop follows it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_rules import make_params, rule
from small_tasks import assert_trees_close, assert_trees_equal

from comm_lopt.data.sources.digits import digits_datasets
from comm_lopt.meta_test.problem import Problem
from comm_lopt.meta_test.runs import run
from comm_lopt.methods import learned
from comm_lopt.optimizers.every_h_steps import every_h_steps
from comm_lopt.optimizers.learned.relative import LOptR
from comm_lopt.optimizers.learned.steering import Steering
from comm_lopt.optimizers.local_rate import local_rate_of, scaled_by
from comm_lopt.tasks.digits import digits_mlp

SEED, RATE, H, ROUNDS = 3, 0.1, 2, 10
LEARNED_OPT = LOptR(hidden_size=4, steering=Steering(learned=True))


def test_the_rate_is_found_wherever_the_rule_stands():
    transformation, params = rule("LOptR"), make_params()
    for around in (
        transformation,
        optax.chain(optax.clip(1.0), transformation),
        optax.masked(transformation, {"w": True, "b": False}),
        every_h_steps(optax.sgd(0.1), optax.chain(transformation, optax.scale(0.5)), 2),
    ):
        assert float(local_rate_of(around.init(params))) == 1.0


def test_where_no_rule_steers_there_is_no_rate():
    unsteered = LOptR(steering=False)
    theta = unsteered.init(jax.random.PRNGKey(0))
    assert "steering" not in theta
    for transformation in (optax.adam(0.1), unsteered.transformation(theta)):
        assert local_rate_of(transformation.init(make_params())) is None


def test_a_rule_is_told_the_number_of_rounds_in_optax_and_by_upstreams_init():
    theta, params = LEARNED_OPT.init(jax.random.PRNGKey(0)), make_params()
    for transformation, expected in (
        (LEARNED_OPT.transformation(theta), 0.0),
        (LEARNED_OPT.transformation(theta, num_rounds=300), 300.0),
        (every_h_steps(optax.sgd(0.1), LEARNED_OPT.transformation(theta, num_rounds=7), 2), 7.0),
    ):
        assert float(optax.tree.get(transformation.init(params), "num_rounds")) == expected
    opt = LEARNED_OPT.opt_fn(theta)
    for told, expected in ((None, 0.0), (50, 50.0)):
        state = opt.init(params, num_steps=told).transform_state
        assert float(optax.tree.get(state, "num_rounds")) == expected
    with pytest.raises(ValueError, match="num_rounds"):
        LEARNED_OPT.transformation(theta, num_rounds=0)


def test_two_rules_that_steer_are_an_error():
    with pytest.raises(KeyError):
        local_rate_of(optax.chain(rule("LOptR"), rule("LOptR")).init(make_params()))


def test_a_scaled_optimizer_takes_longer_steps_and_has_the_same_state():
    plain, params = optax.sgd(0.1, momentum=0.9), make_params()
    assert scaled_by(plain, None) is plain
    scaled, state = scaled_by(plain, jnp.float32(3.0)), plain.init(params)
    assert_trees_equal(scaled.init(params), state)
    for _ in range(2):
        steps, _ = plain.update(params, state, params)
        longer, state = scaled.update(params, state, params, not_known_to_it=1)
        assert_trees_close(longer, jax.tree.map(lambda s: 3 * s, steps))
    assert_trees_close(state[0].trace, jax.tree.map(lambda p: 1.9 * p, params))


@pytest.mark.usefixtures("ordinary_promotion")
@pytest.mark.parametrize("base_rate", [RATE, 1000 * RATE], ids=["low", "far too high"])
def test_simulation_every_h_steps_and_a_loop_of_ones_own_have_the_same_losses(base_rate):
    theta = LEARNED_OPT.init(jax.random.PRNGKey(0))
    theta["steering"]["bias"] = jnp.float32(0.1)
    transformation = LEARNED_OPT.transformation(theta)
    family = digits_mlp((), digits_datasets(batch_size=8))
    curves = run(
        Problem(family, 1, H, ROUNDS),
        learned(LEARNED_OPT, theta, local_learning_rate=base_rate),
        (SEED,),
    )
    task = family.task_fn(0)
    start = task.init(jax.random.split(jax.random.PRNGKey(SEED), 4)[1])
    loss_and_grad = jax.value_and_grad(lambda p, batch: task.loss(p, jax.random.PRNGKey(0), batch))

    @jax.jit
    def own_round(params, state, batches):
        rate, now, losses = local_rate_of(state), params, []
        for batch in batches:
            loss, gradient = loss_and_grad(now, batch)
            losses.append(loss)
            now = jax.tree.map(lambda p, g: p - rate * base_rate * g, now, gradient)
        loss, delta = sum(losses) / H, jax.tree.map(jnp.subtract, params, now)
        told = {"value": loss, "start_value": losses[0]}
        steps, state = transformation.update(delta, state, params, **told)
        return optax.apply_updates(params, steps), state, loss

    # The rule inside a chain, where its rate is found too.
    inside = every_h_steps(optax.sgd(base_rate), optax.chain(transformation, optax.identity()), H)

    @jax.jit
    def ordinary_step(params, state, batch):
        loss, gradient = loss_and_grad(params, batch)
        steps, state = inside.update(gradient, state, params, value=loss)
        return optax.apply_updates(params, steps), state, loss

    own, ordinary = (start, transformation.init(start)), (start, inside.init(start))
    batches = family.datasets.train.reseeded(SEED)
    losses, rates = {"own": [], "ordinary": []}, []
    for _ in range(ROUNDS):
        of_round = [next(batches) for _ in range(H)]
        rates.append(float(local_rate_of(own[1])))
        *own, loss = own_round(*own, of_round)
        losses["own"].append(float(loss))
        for batch in of_round:
            *ordinary, loss = ordinary_step(*ordinary, batch)
            losses["ordinary"].append(float(loss))
    pairs = np.reshape(losses["ordinary"], (ROUNDS, H)).mean(axis=1)
    # A round that went wrong has a loss of rounding alone, and leaves nothing behind.
    right = np.asarray(losses["own"]) < 10 * losses["own"][-1]
    for found in (curves.train_loss[0, 0], pairs):
        np.testing.assert_allclose(found[right], np.asarray(losses["own"])[right], rtol=1e-4)
        assert np.all(~(found[~right] < 10 * losses["own"][-1]))
    if base_rate == RATE:
        assert rates[0] == 1.0 and rates[-1] > 3.0 and np.all(right)
    else:
        undone = int(optax.tree.get(own[1], "rounds_undone"))
        assert undone >= 2 and not np.all(right)
        assert rates[-1] < 0.1
