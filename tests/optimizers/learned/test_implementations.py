"""Every implementation computes the plain update: all ranks, tilings, optimizers, thetas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_rules import K, learned_optimizer, multipliers
from small_tasks import assert_trees_close

from comm_lopt.optimizers.learned import blockwise, fused_kernel
from comm_lopt.optimizers.learned.implementations import IMPLEMENTATIONS
from comm_lopt.optimizers.registry import OPTIMIZERS
from comm_lopt.round_state import RoundState

# Relative rules also with a wider MLP than theirs.
LEARNED = [n for n, entry in OPTIMIZERS.items() if entry.is_learned] + ["LOptR-32", "LAggR-32"]
SHAPES = {
    "scalar": (),
    "vector": (50,),
    "wide": (6, 8),
    "tall": (23, 5),
    "one_column": (40, 1),
    "special_axes_apart": (6, 2, 9),
    "special_axes_first": (9, 7, 2),
    "conv": (3, 2, 4, 6),
    "wide_conv": (2, 2, 7, 5),
    "rank_5": (2, 1, 3, 4, 2),
}


# An implementation, and how many parameters it takes at once: from small tiles to one for all.
TILED = [("blockwise", 8), ("blockwise", 30), ("kernel", 16)]
# Of the optimizers with the same features one, with each way and size; the others are slow.
QUICK = {
    ("LOptA", "blockwise", 8), ("LAgg", "blockwise", 8), ("LAggA", "blockwise", 30),
    ("LOpt", "blockwise", 30), ("LOpt", "kernel", 16),
    ("LOptR-32", "blockwise", 8), ("LAggR", "kernel", 16),
}  # fmt: skip
QUICK_MAPPED = {(name, "blockwise", 30) for name in ("LOptA", "LAgg")}
MAPPED = [(name, "blockwise", 30) for name in LEARNED] + [
    (name, "kernel", 16) for name in ("LOptA", "LOptR-32", "LAggR")
]


def with_slow_ones(cases, quick):
    slow = pytest.mark.slow
    return [pytest.param(*case, marks=[slow] * (case not in quick)) for case in cases]


def with_tiles(monkeypatch, tile):
    monkeypatch.setattr(blockwise, "_TILE", tile)
    monkeypatch.setattr(fused_kernel, "_MLP_BLOCK", tile)
    monkeypatch.setattr(fused_kernel, "_SQUARES_BLOCK", 2 * tile)


def make(name, implementation):
    name, _, width = name.partition("-")
    arguments = {"hidden_size": int(width)} if width else multipliers(name, step_multiplier=1.0)
    return learned_optimizer(name, implementation=implementation, **arguments)


def random_theta(name, seed):
    theta = make(name, "plain").init(jax.random.PRNGKey(seed))
    leaves, treedef = jax.tree.flatten(theta)
    rng = np.random.default_rng(seed)
    return treedef.unflatten(
        [leaf + jnp.asarray(0.03 * rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves]
    )


def random_tree(seed, leading=()):
    rng = np.random.default_rng(seed)
    return {
        n: jnp.asarray(0.1 * rng.normal(size=(*leading, *s)), jnp.float32)
        for n, s in SHAPES.items()
    }


def a_round(seed):
    """The mean Δ and the round state of random worker deltas."""
    workers = random_tree(seed, (K,))
    mean = jax.tree.map(lambda w: jnp.mean(w, axis=0), workers)
    return mean, RoundState(None, workers)


def update(name, implementation, theta, state):
    """A second update, and the step that it takes."""
    mean, round_state = a_round(2)
    new = make(name, implementation).opt_fn(theta).update(state, mean, model_state=round_state)
    return jax.tree.map(jnp.subtract, state.params, new.params), new


@functools.cache
def plain_update(name):
    @jax.jit
    def run(theta, state, mean, round_state):
        return make(name, "plain").opt_fn(theta).update(state, mean, model_state=round_state)

    return run


@functools.cache
def plain_steps_of(name, seed):
    """A random theta, the state after one plain update, the step of a second, its state."""
    theta = random_theta(name, seed)
    start = make(name, "plain").opt_fn(theta).init(random_tree(0))
    state = plain_update(name)(theta, start, *a_round(1))
    new = plain_update(name)(theta, state, *a_round(2))
    return theta, state, jax.tree.map(jnp.subtract, state.params, new.params), new


def assert_same_steps(blocks, plain):
    for name in SHAPES:
        largest = np.max(np.abs(plain[name]))
        assert largest > 1e-3, name
        assert np.max(np.abs(blocks[name] - plain[name])) < 1e-5 * max(largest, 1.0), name


@pytest.mark.parametrize(
    ("name", "implementation", "tile"),
    with_slow_ones([(name, *tiled) for name in LEARNED for tiled in TILED], QUICK),
)
def test_step_is_the_plain_one(name, implementation, tile, monkeypatch):
    with_tiles(monkeypatch, tile)
    theta, state, plain_steps, plain = plain_steps_of(name, 0)
    steps, new = jax.jit(functools.partial(update, name, implementation))(theta, state)
    assert_same_steps(steps, plain_steps)
    assert_trees_close(new.transform_state, plain.transform_state, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("name", "implementation", "tile"), with_slow_ones(MAPPED, QUICK_MAPPED))
def test_step_mapped_over_theta_is_the_plain_one(name, implementation, tile, monkeypatch):
    with_tiles(monkeypatch, tile)
    thetas, states, plain_steps, _ = zip(
        *(plain_steps_of(name, seed) for seed in range(2)), strict=True
    )
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *zip(thetas, states, strict=True))
    steps, _ = jax.jit(jax.vmap(functools.partial(update, name, implementation)))(*stacked)
    for number, plain in enumerate(plain_steps):
        assert_same_steps(jax.tree.map(lambda leaf, n=number: leaf[n], steps), plain)


@pytest.mark.parametrize(("implementation", "tile"), TILED[::2])
def test_gradient_through_a_step_is_the_plain_one(implementation, tile, monkeypatch):
    with_tiles(monkeypatch, tile)
    theta = random_theta("LOptA", 0)
    params, mean = ({"wide": random_tree(seed)["wide"]} for seed in (0, 1))

    def total(theta, implementation):
        opt = make("LOptA", implementation).opt_fn(theta)
        return jnp.sum(opt.update(opt.init(params), mean).params["wide"])

    fast, plain = (
        jax.jit(jax.grad(functools.partial(total, implementation=name)))(theta)
        for name in (implementation, "plain")
    )
    for one, other in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.max(np.abs(other)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_small_parameters_of_half_precision_keep_their_type(implementation):
    opt = make("LOptA", implementation).opt_fn(random_theta("LOptA", 0))
    params = {"w": jnp.ones((4, 6), jnp.bfloat16)}
    state = jax.eval_shape(lambda: opt.update(opt.init(params), params))
    assert state.params["w"].dtype == jnp.bfloat16


def test_unknown_implementation_is_an_error_with_a_suggestion():
    with pytest.raises(ValueError, match="implementation 'blockwize' is not known; did you mean"):
        make("LOptA", "blockwize")
