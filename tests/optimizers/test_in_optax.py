"""Every rule of the registry inside what optax has to combine transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_rules import (
    DESIGNED,
    LEARNED,
    NAMES,
    NEEDS_SQUARES,
    NEEDS_WORKERS,
    hyperparameters,
    learned_optimizer,
    make_params,
    make_round,
    rule,
    shapes_and_dtypes,
    theta_of,
)
from small_tasks import assert_trees_close, assert_trees_equal

from comm_lopt.optimizers.registry import OPTIMIZERS
from comm_lopt.tasks.averages import mean_of_squares

# Optax's Adam fails under strict promotion.
pytestmark = pytest.mark.usefixtures("ordinary_promotion")

DECAY = 0.01


def schedule(count):
    return 1.0 / (1.0 + count)


def updates_of(transformation, params, rounds):
    """The updates of several rounds, all at the same parameters, and the state after them."""
    state, taken = transformation.init(params), []
    for delta, workers in rounds:
        updates, state = transformation.update(delta, state, params, worker_deltas=workers)
        taken.append(updates)
    return taken, state


@functools.cache
def plain_updates(name):
    params = make_params()
    return updates_of(rule(name), params, [make_round(params, seed) for seed in range(2)])


@pytest.mark.parametrize("name", NAMES)
def test_schedules_and_decoupled_weight_decay_stand_outside(name):
    params = make_params()
    outside = optax.chain(
        rule(name), optax.scale_by_schedule(schedule), optax.add_decayed_weights(-DECAY)
    )
    found, _ = updates_of(outside, params, [make_round(params, seed) for seed in range(2)])
    for count, plain in enumerate(plain_updates(name)[0]):
        expected = jax.tree.map(lambda u, p, c=count: schedule(c) * u - DECAY * p, plain, params)
        assert_trees_close(found[count], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", DESIGNED)
def test_hyperparameters_can_be_injected_into_a_factory(name):
    params = make_params()
    make = OPTIMIZERS[name].make
    injected = optax.inject_hyperparams(make)(**hyperparameters(name))
    found, state = updates_of(injected, params, [make_round(params, seed) for seed in range(2)])
    for one, other in zip(found, plain_updates(name)[0], strict=True):
        assert_trees_close(one, other, rtol=1e-5, atol=1e-7)
    assert set(state.hyperparams) >= set(OPTIMIZERS[name].grid)


def test_an_injected_hyperparameter_is_used():
    params, (delta, _) = make_params(), make_round(make_params())
    injected = optax.inject_hyperparams(OPTIMIZERS["OuterSGD"].make)(learning_rate=1.0)
    state = injected.init(params)
    state.hyperparams["learning_rate"] = jnp.float32(0.5)
    updates, _ = injected.update(delta, state, params)
    assert_trees_equal(updates, jax.tree.map(lambda d: -0.5 * d, delta))


@pytest.mark.parametrize("name", LEARNED)
def test_an_outer_rate_of_a_learned_rule_can_be_injected(name):
    params = make_params()

    @optax.inject_hyperparams
    def scaled(outer_rate):
        return optax.chain(rule(name), optax.scale(outer_rate))

    found, state = updates_of(scaled(0.5), params, [make_round(params, seed) for seed in range(2)])
    for one, other in zip(found, plain_updates(name)[0], strict=True):
        assert_trees_close(one, jax.tree.map(lambda u: 0.5 * u, other), rtol=1e-5, atol=1e-7)
    assert float(state.hyperparams["outer_rate"]) == 0.5


@pytest.mark.parametrize("name", NAMES)
def test_masked_and_multi_transform_give_a_rule_its_part_of_the_parameters(name):
    """What is masked passes through; of several groups each has its rule."""
    params, a_round = make_params(), make_round(make_params())
    alone, workers = ({"w": tree["w"]} for tree in a_round)
    (expected,), _ = updates_of(rule(name), {"w": params["w"]}, [(alone, workers)])
    masked = optax.masked(rule(name), {"w": True, "b": False}, mask_compatible_extra_args=True)
    (found,), _ = updates_of(masked, params, [a_round])
    assert_trees_close(found, {**expected, "b": a_round[0]["b"]}, rtol=1e-5, atol=1e-7)
    groups = optax.multi_transform(
        {"rule": rule(name), "frozen": optax.set_to_zero()},
        {"w": "rule", "b": "frozen"},
        mask_compatible_extra_args=True,
    )
    (found,), _ = updates_of(groups, params, [a_round])
    zeros = {"b": jnp.zeros_like(params["b"])}
    assert_trees_close(found, {**expected, **zeros}, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NEEDS_WORKERS)
def test_a_rule_whose_parameters_are_all_masked_does_nothing(name):
    params, (delta, workers) = make_params(), make_round(make_params())
    masked = optax.masked(rule(name), {"w": False, "b": False}, mask_compatible_extra_args=True)
    updates, _ = masked.update(delta, masked.init(params), params, worker_deltas=workers)
    assert_trees_equal(updates, delta)


@pytest.mark.parametrize("name", NAMES)
def test_optax_knows_what_in_the_state_is_like_the_parameters(name):
    """As it must to shard a state as its parameters are, and as Flax NNX counts on."""
    params = make_params()
    _, state = updates_of(rule(name), params, [make_round(params)])
    found = optax.tree_map_params(
        rule(name),
        lambda leaf: "like the parameters",
        state,
        transform_non_params=lambda leaf: leaf.ndim,
    )
    assert set(jax.tree.leaves(found)) <= {"like the parameters", 0}
    assert len(jax.tree.leaves(found)) == len(jax.tree.leaves(state))


def masked_out(worker_deltas, weights):
    """The mean of the deltas of those who are there, and the deltas with it for the others."""
    share = weights / weights.sum()

    def mean_of(deltas):
        return jnp.tensordot(share, deltas, 1)

    means = jax.tree.map(mean_of, worker_deltas)
    there = np.asarray(weights) > 0
    filled = jax.tree.map(
        lambda deltas, mean: jnp.stack(
            [d if here else mean for d, here in zip(deltas, there, strict=True)]
        ),
        worker_deltas,
        means,
    )
    return means, filled


@pytest.mark.parametrize("name", NEEDS_WORKERS)
def test_absent_workers_are_refused_or_the_mean_stands_for_them(name):
    params, (_, workers) = make_params(), make_round(make_params())
    weights = jnp.asarray([2.0, 0.0, 1.0])
    mean, filled = masked_out(workers, weights)
    theta = theta_of(name)
    state = rule(name).init(params)
    with pytest.raises(ValueError, match=r'LAggA? sees .* absent_workers="mean"'):
        rule(name).update(mean, state, params, worker_deltas=workers, worker_weights=weights)
    filling = learned_optimizer(name, absent_workers="mean").transformation(theta)
    update = jax.jit(
        lambda workers, weights: filling.update(
            mean, state, params, worker_deltas=workers, worker_weights=weights
        )
    )
    expected = rule(name).update(mean, state, params, worker_deltas=filled)
    assert_trees_close(update(workers, weights), expected, rtol=1e-5, atol=1e-8)
    # What an absent worker's delta would have been plays no part, be it not a number.
    poisoned = jax.tree.map(lambda d: d.at[1].set(jnp.nan), workers)
    assert_trees_equal(update(poisoned, weights), update(workers, weights))


@pytest.mark.parametrize("name", NEEDS_SQUARES)
def test_squares_are_taken_as_given_or_from_the_deltas_of_those_there(name):
    params, (_, workers) = make_params(), make_round(make_params())
    weights = jnp.asarray([2.0, 0.0, 1.0])
    mean, _ = masked_out(workers, weights)
    poisoned = jax.tree.map(lambda d: d.at[1].set(jnp.nan), workers)

    theta = theta_of(name)

    @jax.jit
    def step_of(**of_workers):
        transformation = rule(name, theta)
        return transformation.update(mean, transformation.init(params), params, **of_workers)[0]

    given = step_of(worker_squares=mean_of_squares(workers, weights))
    found = step_of(worker_deltas=poisoned, worker_weights=weights)
    assert_trees_close(found, given, rtol=1e-5, atol=1e-8)
    agreed = step_of(worker_squares=jax.tree.map(jnp.square, mean))
    for one, another in zip(*map(jax.tree.leaves, (given, agreed)), strict=True):
        assert np.any(np.asarray(one) != np.asarray(another))


@pytest.mark.parametrize("name", LEARNED)
def test_learned_rules_need_no_promotion_of_types_or_ranks(name):
    params = make_params()
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        updates, _ = jax.eval_shape(
            lambda delta, workers: rule(name).update(
                delta, rule(name).init(params), params, worker_deltas=workers
            ),
            *make_round(params),
        )
    assert shapes_and_dtypes(updates) == shapes_and_dtypes(params)
