"""AdamW and Muon as local optimizers; SGD is tested with the local round."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_tasks import assert_trees_close

from comm_lopt.tasks.local_optimizers import LOCAL_OPTIMIZERS, local_adamw, local_muon

# Optax's Adam fails under strict promotion.
pytestmark = pytest.mark.usefixtures("ordinary_promotion")

SHAPES = {"scalar": (), "vector": (5,), "wide": (3, 7), "tall": (8, 4), "kernel": (3, 3, 2, 4)}
RATE = 0.03


def make_tree(seed):
    rng = np.random.default_rng(seed)
    return {n: jnp.asarray(rng.normal(size=shape), jnp.float32) for n, shape in SHAPES.items()}


PARAMS = make_tree(0)
GRADIENTS = [make_tree(1), make_tree(2)]


def two_steps(opt, params=PARAMS, gradients=GRADIENTS):
    """Weights after each of two steps."""

    @jax.jit
    def step(params, state, gradient):
        updates, state = opt.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state, trajectory = opt.init(params), []
    for gradient in gradients:
        params, state = step(params, state, gradient)
        trajectory.append(params)
    return trajectory


def numpy_adamw(w, gradients, b1, b2, epsilon, weight_decay):
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        adam = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + epsilon)
        yield (w := w - RATE * (adam + weight_decay * w))


def in_float64(name, trees):
    return [np.asarray(tree[name], np.float64) for tree in trees]


def test_adamw_follows_its_equations():
    hparams = {"b1": 0.8, "b2": 0.95, "epsilon": 1e-3, "weight_decay": 0.2}
    trajectory = two_steps(local_adamw(RATE, **hparams))
    for n in SHAPES:
        start, gradients = in_float64(n, [PARAMS])[0], in_float64(n, GRADIENTS)
        steps = numpy_adamw(start, gradients, **hparams)
        for params, expected in zip(trajectory, steps, strict=True):
            np.testing.assert_allclose(params[n], expected, rtol=1e-5, atol=1e-6)


def as_matrix(tensor):
    return tensor.reshape(-1, tensor.shape[-1])


@pytest.mark.parametrize("name", [n for n, shape in SHAPES.items() if len(shape) >= 2])
def test_muon_steps_along_the_orthogonal_factor_of_the_momentum(name):
    beta, weight_decay = 0.7, 0.2
    trajectory = two_steps(local_muon(RATE, momentum=beta, weight_decay=weight_decay))
    before = in_float64(name, [PARAMS, *trajectory[:-1]])
    after = in_float64(name, trajectory)
    m = 0.0
    for w, new, gradient in zip(before, after, in_float64(name, GRADIENTS), strict=True):
        m = beta * m + (1 - beta) * gradient
        u, s, vt = np.linalg.svd(as_matrix(m), full_matrices=False)
        n_in, n_out = as_matrix(m).shape
        step = as_matrix((w - new) / RATE - weight_decay * w) / np.sqrt(max(1, n_out / n_in))
        factors = u.T @ step @ vt.T
        np.testing.assert_allclose(factors, np.diag(np.diag(factors)), atol=1e-3)
        assert np.all((np.diag(factors) > 0.65) & (np.diag(factors) < 1.25))
        assert s.max() / s.min() > 1.3  # else the gradient itself would have passed


@pytest.mark.parametrize("name", ["scalar", "vector"])
def test_muon_leaves_scalars_and_vectors_to_adamw(name):
    hparams = {"weight_decay": 0.2, "epsilon": 1e-3}
    trajectory = two_steps(local_muon(RATE, adam_b1=0.8, adam_b2=0.95, **hparams))
    start, gradients = in_float64(name, [PARAMS])[0], in_float64(name, GRADIENTS)
    steps = numpy_adamw(start, gradients, b1=0.8, b2=0.95, **hparams)
    for params, expected in zip(trajectory, steps, strict=True):
        np.testing.assert_allclose(params[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [local_adamw, local_muon])
def test_clipping_bounds_the_gradient_that_the_moments_see(make):
    clipped = make(RATE, epsilon=1e-2, clip_norm=1e-2)
    scaled = [optax.tree.scale(1e-2 / optax.tree.norm(tree), tree) for tree in GRADIENTS]
    expected = two_steps(make(RATE, epsilon=1e-2), gradients=scaled)
    assert_trees_close(two_steps(clipped), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOCAL_OPTIMIZERS)
@pytest.mark.parametrize("x64", [False, True])
def test_scanned_steps_of_a_sweep_keep_types_and_agree_with_single_ones(name, x64):
    make = LOCAL_OPTIMIZERS[name].make
    with jax.enable_x64(x64):
        params = {**PARAMS, "frozen": None}
        gradients = [{**gradient, "frozen": None} for gradient in GRADIENTS]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients)

        def run(learning_rate):
            opt = make(learning_rate)

            def step(carry, gradient):
                updates, state = opt.update(gradient, carry[1], carry[0])
                return (optax.apply_updates(carry[0], updates), state), None

            return jax.lax.scan(step, (params, opt.init(params)), stacked)[0][0]

        many = jax.jit(jax.vmap(run))(jnp.asarray([RATE, 2 * RATE], jnp.float32))
        expected = two_steps(make(RATE), params, gradients)[-1]
        assert {leaf.dtype.name for leaf in jax.tree.leaves((many, expected))} == {"float32"}
        assert_trees_close(jax.tree.map(lambda w: w[0], many), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LOCAL_OPTIMIZERS)
def test_state_persists_where_there_is_any(name):
    entry = LOCAL_OPTIMIZERS[name]
    assert entry.persists == bool(jax.tree.leaves(entry.make().init(PARAMS)))


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (local_adamw, {"learning_rate": -1.0}, r"learning_rate=-1.0 lies outside \[0.0"),
        (local_adamw, {"b1": 1.0}, r"b1=1.0 lies outside \[0.0, 1.0\)"),
        (local_adamw, {"b2": 1.0}, r"b2=1.0 lies outside \[0.0, 1.0\)"),
        (local_adamw, {"epsilon": -1.0}, r"epsilon=-1.0 lies outside \[0.0"),
        (local_adamw, {"weight_decay": -1.0}, r"weight_decay=-1.0 lies outside \[0.0"),
        (local_adamw, {"clip_norm": 0.0}, r"clip_norm=0.0 lies outside \(0.0"),
        (local_muon, {"learning_rate": -1.0}, r"learning_rate=-1.0 lies outside \[0.0"),
        (local_muon, {"momentum": 1.0}, r"momentum=1.0 lies outside \[0.0, 1.0\)"),
        (local_muon, {"weight_decay": -1.0}, r"weight_decay=-1.0 lies outside \[0.0"),
        (local_muon, {"adam_b1": 1.0}, r"adam_b1=1.0 lies outside \[0.0, 1.0\)"),
        (local_muon, {"adam_b2": 1.0}, r"adam_b2=1.0 lies outside \[0.0, 1.0\)"),
        (local_muon, {"epsilon": -1.0}, r"epsilon=-1.0 lies outside \[0.0"),
        (local_muon, {"clip_norm": 0.0}, r"clip_norm=0.0 lies outside \(0.0"),
    ],
)
def test_hyperparameter_out_of_range_is_an_error(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)
