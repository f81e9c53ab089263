"""Every rule of the registry on parameters of all ranks, precisions and kinds of trees."""

import dataclasses
import functools

import chex
import flax.struct
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small_rules import (
    LEARNED,
    RULES,
    K,
    learned_optimizer,
    make_round,
    rule,
    shapes_and_dtypes,
    step,
    theta_of,
)
from small_tasks import assert_trees_equal

from comm_lopt.optimizers.full_precision import in_full_precision
from comm_lopt.optimizers.learned.implementations import IMPLEMENTATIONS
from comm_lopt.optimizers.learned.lagg import LAgg

# Optax's Adam fails under strict promotion.
pytestmark = pytest.mark.usefixtures("ordinary_promotion")

EMPTY = {"none": (0,), "rows": (0, 3), "columns": (3, 0), "middle": (2, 0, 4)}
RANKS = {f"rank_{rank}": (2, 3, 1, 2, 2)[:rank] for rank in range(6)}


@flax.struct.dataclass
class FlaxDataclass:
    weight: jax.Array
    name: str = flax.struct.field(pytree_node=False, default="layer")


@chex.dataclass
class ChexDataclass:
    weight: jax.Array


@functools.partial(jax.tree_util.register_dataclass, data_fields=["weight"], meta_fields=[])
@dataclasses.dataclass
class PlainDataclass:
    weight: jax.Array


def full_precision(name):
    """A learned rule is in full precision of itself, any other is by `as_upstream`."""
    return rule(name) if name in LEARNED else in_full_precision(rule(name))


def random_arrays(shapes):
    rng = np.random.default_rng(0)
    return {name: jnp.asarray(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}


def zeros_of(params):
    return jax.tree.map(lambda p: jnp.zeros((K, *p.shape)), params)


@pytest.mark.parametrize("name", RULES)
def test_all_ranks_and_tensors_of_size_zero(name):
    """A tensor of size zero comes back as it was, and all others move."""
    params = random_arrays({**EMPTY, **RANKS})
    delta, workers = make_round(params)
    state = rule(name).init(params)
    after, new = jax.jit(functools.partial(step, rule(name)))(params, state, (delta, workers))
    assert shapes_and_dtypes((after, new)) == shapes_and_dtypes((params, state))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((after, new)))
    for rank in RANKS:
        assert np.any(np.asarray(after[rank]) != np.asarray(params[rank]))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_tensors_of_size_zero_come_back_from_every_implementation(implementation):
    for name in LEARNED:
        learned_opt = learned_optimizer(name, implementation=implementation)
        transformation = learned_opt.transformation(theta_of(name))
        params = random_arrays(EMPTY)
        state = transformation.init(params)
        updates, new = transformation.update(params, state, params, worker_deltas=zeros_of(params))
        assert shapes_and_dtypes((updates, new)) == shapes_and_dtypes((params, state))


def tree_of_every_kind(leaves):
    """The arrays in a tree of all kinds of nodes that models are made of."""
    leaves = iter(leaves)
    transformed = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(2)(x)))
    haiku = jax.tree.map(
        lambda _: next(leaves), transformed.init(jax.random.PRNGKey(0), np.ones((1, 2)))
    )
    state = nnx.state(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.Param)
    state = jax.tree.map(lambda _: next(leaves), state)
    return {
        "haiku": haiku,
        "flax_nnx": state,
        "flax_dataclass": FlaxDataclass(next(leaves)),
        "chex_dataclass": ChexDataclass(weight=next(leaves)),
        "dataclass": PlainDataclass(next(leaves)),
        "list_and_tuple": [(next(leaves), None), optax.EmptyState()],
        "nothing": None,
    }


NUM_LEAVES = 8


@pytest.mark.parametrize("name", RULES)
def test_trees_of_all_kinds_of_nodes_give_what_a_list_gives(name):
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(2,)), jnp.float32) for _ in range(NUM_LEAVES)]
    a_round = make_round(arrays)
    expected = step(rule(name), arrays, rule(name).init(arrays), a_round)
    params, delta, workers = map(tree_of_every_kind, (arrays, *a_round))
    state = rule(name).init(params)
    after, new = step(rule(name), params, state, (delta, workers))
    assert jax.tree.structure((after, new)) == jax.tree.structure((params, state))
    assert isinstance(after["flax_nnx"], nnx.State)
    assert isinstance(after["chex_dataclass"], ChexDataclass)
    assert_trees_equal(jax.tree.leaves(after), expected_in_order(params, arrays, expected[0]))


def expected_in_order(tree, arrays, values):
    """`values`, one for each of `arrays`, as the leaves of a tree of these come."""
    place = {id(array): value for array, value in zip(arrays, values, strict=True)}
    return [place[id(leaf)] for leaf in jax.tree.leaves(tree)]


def many_steps(transformation, params, delta, num_steps):
    def one(carry, _):
        return step(transformation, *carry, (delta, None)), None

    start = (params, transformation.init(params))
    return jax.jit(lambda: jax.lax.scan(one, start, None, length=num_steps)[0])()


def low_and_wide(dtype):
    low = {"w": jnp.linspace(0.5, 2.0, 12).reshape(3, 4).astype(dtype)}
    return low, {"w": low["w"].astype(jnp.float32)}


def exact(params, state):
    """p + r."""
    return np.asarray(params["w"].astype(jnp.float32) + state.residual["w"])


@pytest.mark.parametrize("name", ["LocalSGD", "SlowMo", "LOptA", "LAgg"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_steps_too_small_for_the_precision_are_not_lost(name, dtype):
    """After 100 of them p + r is what the same run in float32 has."""
    low, wide = low_and_wide(dtype)
    rounds = {"w": jnp.full((3, 4), 1e-4)}
    transformation = full_precision(name)
    if name == "LAgg":
        transformation = LAgg(1).transformation(LAgg(1).init(jax.random.PRNGKey(0)))

    def train(params):
        def one(carry, _):
            workers = jax.tree.map(lambda d: d[None], rounds)
            return step(transformation, *carry, (rounds, workers)), None

        return jax.lax.scan(one, (params, transformation.init(params)), None, length=100)[0]

    (low, state), (wide_after, _) = jax.jit(train)(low), jax.jit(train)(wide)
    np.testing.assert_allclose(exact(low, state), wide_after["w"], rtol=0, atol=1e-5)
    assert np.min(np.abs(wide_after["w"] - wide["w"])) > 3e-3
    # The parameter is the exact one, rounded.
    np.testing.assert_array_equal(low["w"], exact(low, state).astype(low["w"].dtype))


def test_without_a_residual_small_steps_are_lost():
    params, delta = {"w": jnp.ones(3, jnp.bfloat16)}, {"w": jnp.full(3, 1e-4)}
    rule_alone = in_full_precision(rule("LocalSGD"), keep_residual=False)
    after, _ = many_steps(rule_alone, params, delta, 100)
    np.testing.assert_array_equal(after["w"], 1.0)


def test_decoupled_weight_decay_outside_acts_on_low_precision():
    """The residual stays one of the rule's steps when something else moves the parameter."""
    low, wide = low_and_wide(jnp.bfloat16)
    delta = {"w": jnp.full((3, 4), 1e-4)}
    inside = in_full_precision(rule("LocalSGD"))
    outside = optax.chain(inside, optax.add_decayed_weights(-0.1))
    after, (state, _) = many_steps(outside, low, delta, 5)
    expected = np.asarray(wide["w"])
    for _ in range(5):
        expected = 0.9 * expected - 1e-4
    # Each decay is rounded to the precision, by half of 2⁻⁸ at most.
    np.testing.assert_allclose(exact(after, state), expected, rtol=5 * 2.0**-8)


@pytest.mark.parametrize("name", ["LocalSGD", "LOptA"])
def test_a_whole_chain_in_full_precision_is_the_one_in_float32(name):
    """Scales and small weight decays belong inside, for outside they see rounded updates."""
    low, wide = low_and_wide(jnp.bfloat16)
    delta = {"w": jnp.full((3, 4), 1e-3)}
    chain = in_full_precision(
        optax.chain(rule(name), optax.scale(0.1), optax.add_decayed_weights(-1e-4))
    )
    (after, state), (wide_after, _) = (many_steps(chain, p, delta, 100) for p in (low, wide))
    np.testing.assert_allclose(exact(after, state), wide_after["w"], rtol=0, atol=1e-5)
    assert np.min(np.abs(wide_after["w"] - wide["w"])) > 3e-3
