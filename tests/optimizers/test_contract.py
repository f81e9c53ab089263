"""What every global optimizer of the registry promises."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_tasks import assert_trees_close

from comm_lopt.optimizers.registry import OPTIMIZERS, optimizer_entry
from comm_lopt.round_state import RoundState
from comm_lopt.upstream import LearnedOptimizer, Optimizer

K = 3
NAMES = sorted(OPTIMIZERS)
LEARNED = [name for name in NAMES if OPTIMIZERS[name].kind == "learned"]
DESIGNED = [name for name in NAMES if OPTIMIZERS[name].kind != "learned"]

# Optax's Adam fails under strict promotion.
pytestmark = pytest.mark.usefixtures("ordinary_promotion")


def learned_optimizer(name):
    arguments = {"num_workers": K} if name.startswith("LAgg") else {}
    return OPTIMIZERS[name].make(**arguments)


@functools.cache
def make(name):
    if name in LEARNED:
        learned_opt = learned_optimizer(name)
        return learned_opt.opt_fn(learned_opt.init(jax.random.PRNGKey(0)))
    return OPTIMIZERS[name].make()


def make_params(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = {"w": (3, 4), "b": (4,)}
    return {n: jnp.asarray(rng.normal(size=shape), dtype) for n, shape in shapes.items()}


def make_round(params, seed=1, scale=1e-2):
    """A mean Δ and the round state with the worker deltas that it is the mean of."""
    rng = np.random.default_rng(seed)
    workers = jax.tree.map(
        lambda p: jnp.asarray(scale * rng.normal(size=(K, *p.shape)), p.dtype), params
    )
    mean = jax.tree.map(lambda w: jnp.mean(w, axis=0), workers)
    return mean, RoundState({"average": jnp.ones(2)}, workers)


def plain_update(opt, state, params_like, seed=1, scale=1e-2):
    delta, round_state = make_round(params_like, seed, scale)
    return opt.update(state, delta, loss=jnp.float32(1.0), model_state=round_state)


@functools.cache
def compiled(opt):
    return jax.jit(lambda s, d, r: opt.update(s, d, loss=jnp.float32(1.0), model_state=r))


def update(opt, state, params_like, seed=1, scale=1e-2):
    return compiled(opt)(state, *make_round(params_like, seed, scale))


def init(opt, params):
    return opt.init(params, {"average": jnp.ones(2)}, num_steps=10, key=jax.random.PRNGKey(0))


def shapes_and_dtypes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@pytest.mark.parametrize("name", NAMES)
def test_name_is_the_key_in_the_registry(name):
    assert make(name).name == name
    assert isinstance(make(name), Optimizer)
    if name in LEARNED:
        assert isinstance(learned_optimizer(name), LearnedOptimizer)
        assert learned_optimizer(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_update_changes_every_parameter_and_counts_rounds(name):
    opt, params = make(name), make_params()
    state = init(opt, params)
    for leaf, start in zip(
        jax.tree.leaves(opt.get_params(state)), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_array_equal(leaf, start)
    new = update(opt, state, params)
    for leaf, start in zip(
        jax.tree.leaves(opt.get_params(new)), jax.tree.leaves(params), strict=True
    ):
        assert np.any(np.asarray(leaf) != np.asarray(start))
    assert (int(state.iteration), int(new.iteration)) == (0, 1)


@pytest.mark.parametrize("name", NAMES)
def test_jit_agrees_with_plain_calls(name):
    opt, params = make(name), make_params()
    plain = plain_update(opt, init(opt, params), params)
    jitted = update(opt, jax.jit(lambda p: init(opt, p))(params), params)
    assert_trees_close(jitted, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_parameters_agrees_with_single_calls(name):
    opt = make(name)
    many = [jax.tree.map(lambda p, i=i: p + i, make_params()) for i in range(2)]
    singles = [update(opt, init(opt, params), params) for params in many]
    one = jax.vmap(lambda p: plain_update(opt, init(opt, p), make_params()))
    together = jax.jit(one)(stacked(many))
    assert_trees_close(together, stacked(singles), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LEARNED)
def test_vmap_over_theta_agrees_with_single_calls(name):
    learned_opt, params = learned_optimizer(name), make_params()
    thetas = [learned_opt.init(jax.random.PRNGKey(seed)) for seed in range(2)]

    def train(theta):
        opt = learned_opt.opt_fn(theta)
        state = plain_update(opt, init(opt, params), params)
        return plain_update(opt, state, params, seed=2)

    together = jax.jit(jax.vmap(train))(stacked(thetas))
    singles = [jax.jit(train)(theta) for theta in thetas]
    assert_trees_close(together, stacked(singles), rtol=1e-5, atol=1e-6)
    assert not np.allclose(together.params["w"][0], together.params["w"][1], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_scan_carries_the_state_and_agrees_with_a_loop(name, dtype):
    opt, params = make(name), make_params(dtype)
    start = init(opt, params)
    rounds = stacked([make_round(params, seed) for seed in range(3)])

    def step(state, inputs):
        delta, round_state = inputs
        return opt.update(state, delta, loss=jnp.float32(1.0), model_state=round_state), None

    scanned, _ = jax.lax.scan(step, start, rounds)
    assert shapes_and_dtypes(scanned) == shapes_and_dtypes(start)
    assert shapes_and_dtypes(opt.get_params(scanned)) == shapes_and_dtypes(params)
    looped = start
    for seed in range(3):
        looped = update(opt, looped, params, seed)
    if dtype == jnp.float32:
        assert_trees_close(scanned, looped, rtol=1e-5, atol=1e-6)
    else:
        as_float = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (scanned, looped))
        assert_trees_close(*as_float, rtol=2**-7, atol=2**-9)  # An ulp of bfloat16.


@pytest.mark.parametrize("name", NAMES)
def test_second_call_does_not_compile_again(name):
    opt, params = make(name), make_params()
    traces = []

    @jax.jit
    def step(state, inputs):
        traces.append(name)
        delta, round_state = inputs
        return opt.update(state, delta, loss=jnp.float32(1.0), model_state=round_state)

    state = init(opt, params)
    for seed in range(3):
        state = step(state, make_round(params, seed))
    assert len(traces) == 1


@pytest.mark.parametrize("name", NAMES)
def test_all_is_finite_when_nothing_moves(name):
    opt, params = make(name), make_params()
    state = init(opt, params)
    for _ in range(2):
        state = update(opt, state, params, scale=0.0)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("name", DESIGNED)
def test_nothing_moves_where_nothing_moved(name):
    opt, params = make(name), make_params()
    state = update(opt, init(opt, params), params, scale=0.0)
    assert_trees_close(opt.get_params(state), params, rtol=0, atol=0)


@pytest.mark.parametrize("name", DESIGNED)
def test_hand_designed_optimizer_descends_a_quadratic(name):
    opt, params = make(name), make_params()
    curvature = {"w": 1.0, "b": 0.5}

    def loss(p):
        return sum(0.5 * c * jnp.sum(jnp.square(p[n])) for n, c in curvature.items())

    @jax.jit
    def step(state):
        delta = jax.tree.map(lambda g: 0.1 * g, jax.grad(loss)(opt.get_params(state)))
        return opt.update(state, delta, loss=jnp.float32(0.0))

    state = opt.init(params)
    for _ in range(50):
        state = step(state)
    assert float(loss(opt.get_params(state))) < 0.7 * float(loss(params))


@pytest.mark.parametrize("name", NAMES)
def test_state_never_keeps_the_worker_deltas(name):
    opt, params = make(name), make_params()
    start = init(opt, params)
    for state in (start, update(opt, start, params)):
        assert not isinstance(opt.get_state(state), RoundState)
        np.testing.assert_array_equal(opt.get_state(state)["average"], np.ones(2))
        assert shapes_and_dtypes(state) == shapes_and_dtypes(start)
    # Upstream may also start from the model state of a round.
    restarted = opt.init(params, make_round(params)[1], num_steps=10)
    assert set(opt.get_state(restarted)) == {"average"}


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("LAgg")])
def test_worker_deltas_are_not_needed(name):
    opt, params = make(name), make_params()
    delta, round_state = make_round(params)
    with_deltas = compiled(opt)(init(opt, params), delta, round_state)
    without = compiled(opt)(init(opt, params), delta, {"average": jnp.ones(2)})
    assert_trees_close(with_deltas, without, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_default_grid_holds_accepted_hyperparameters_only(name):
    entry = optimizer_entry(name)
    grid = {n: values for n, values in entry.grid.items() if n != "local_learning_rate"}
    assert ("local_learning_rate" in entry.grid) == (entry.kind != "data_parallel")
    assert set(grid) <= set(inspect.signature(entry.make).parameters)
    for values in entry.grid.values():
        assert len(set(values)) == len(values) > 0
    for values in itertools.product(*grid.values()):
        entry.make(**dict(zip(grid, values, strict=True)))


def test_unknown_optimizer_is_an_error_with_a_suggestion():
    with pytest.raises(ValueError, match="optimizer 'slowmow' is not known; did you mean 'SlowMo'"):
        optimizer_entry("slowmow")
