"""LOpt-A and LOpt against upstream's reference implementations, with the same weights."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learned_optimization.learned_optimizers.adafac_mlp_lopt import AdafacMLPLOpt
from learned_optimization.learned_optimizers.mlp_lopt import MLPLOpt

from comm_lopt import upstream
from comm_lopt.optimizers.learned.lopt import LOpt, LOptA

pytestmark = pytest.mark.usefixtures("ordinary_promotion")

# λ1 = 1 makes steps as large as the parameters, so that no digit of a step is lost when it is
# taken from a parameter.
LOPT_A = LOptA(step_multiplier=1.0)
REFERENCE = AdafacMLPLOpt(hidden_size=32, step_mult=1.0)
FACTORED = {
    "matrix": (4, 7),
    "square": (5, 5),
    "rank3": (6, 2, 4),
    "conv": (3, 3, 4, 6),
}
UNFACTORED = {"scalar": (), "vector": (6,)}
NUM_UPDATES = 6


def random_tree(rng, shapes, scale=1.0):
    return {
        name: jnp.asarray(scale * rng.normal(size=shape), jnp.float32)
        for name, shape in shapes.items()
    }


@functools.partial(jax.jit, static_argnums=0)
def update(learned_opt, theta, state, gradient):
    return learned_opt.opt_fn(theta).update(state, gradient, jnp.float32(0.0))


def steps(learned_opt, theta, shapes, gradient_scale):
    """Steps over several updates, each before − after, as float64."""
    rng = np.random.default_rng(0)
    opt = learned_opt.opt_fn(theta)
    state = opt.init(random_tree(rng, shapes), num_steps=NUM_UPDATES)
    taken = []
    for _ in range(NUM_UPDATES):
        before = opt.get_params(state)
        state = update(learned_opt, theta, state, random_tree(rng, shapes, gradient_scale))
        after = opt.get_params(state)
        taken.append({n: np.asarray(before[n], float) - after[n] for n in shapes})
    return taken


def largest_difference(ours, theirs):
    """Largest difference of any tensor's step, relative to that step's largest entry."""
    return max(
        np.max(np.abs(mine[name] - other[name])) / np.max(np.abs(other[name]))
        for mine, other in zip(ours, theirs, strict=True)
        for name in mine
    )


def adafac_theta(theta):
    """Our theta in the structure of upstream's `AdafacMLPLOpt`."""
    reference = AdafacMLPLOpt(hidden_size=32).init(jax.random.PRNGKey(0))
    features = theta["features"]
    converted = hk.data_structures.to_haiku_dict(
        {
            "momentum_decays": features["momentum_decays"],
            "rms_decays": features["second_moment_decays"],
            "adafactor_decays": features["adafactor_decays"],
            "nn": {"~": theta["mlp"]},
        }
    )
    assert jax.tree.map(jnp.shape, converted) == jax.tree.map(jnp.shape, reference)
    return converted


def no_shifts(theta):
    return theta


def random_shifts(theta):
    rng = np.random.default_rng(5)
    shifts = {
        n: jnp.asarray(0.05 * rng.normal(size=x.shape), jnp.float32)
        for n, x in theta["features"].items()
    }
    return {**theta, "features": shifts}


def shifts_beyond_zero(theta):
    """Shifts that make some decays negative: squares must be averaged with 0 then."""
    shifts = {
        "momentum_decays": jnp.asarray([0.05, 0.0, 0.0]),
        "second_moment_decays": jnp.asarray([0.75]),
        "adafactor_decays": jnp.asarray([0.3, 0.0, 0.72]),
    }
    return {**theta, "features": shifts}


def lopt_a_and_reference_steps(shapes, gradient_scale, shift=no_shifts):
    theta = shift(LOPT_A.init(jax.random.PRNGKey(2)))
    ours = steps(LOPT_A, theta, shapes, gradient_scale)
    return ours, steps(REFERENCE, adafac_theta(theta), shapes, gradient_scale)


@pytest.mark.parametrize("shift", [no_shifts, random_shifts, shifts_beyond_zero])
@pytest.mark.parametrize("gradient_scale", [1.0, 1e-2])
def test_lopt_a_is_upstreams_adafac_mlp_on_factored_tensors(gradient_scale, shift):
    ours, theirs = lopt_a_and_reference_steps(FACTORED, gradient_scale, shift)
    assert largest_difference(ours, theirs) < 1e-5


@pytest.mark.parametrize("shift", [no_shifts, random_shifts, shifts_beyond_zero])
def test_lopt_a_is_upstreams_adafac_mlp_on_unfactored_tensors(shift):
    # With gradients this large the averaged squares are far above 1e-6; see the next test.
    ours, theirs = lopt_a_and_reference_steps(UNFACTORED, 1e3, shift)
    assert largest_difference(ours, theirs) < 1e-5


def test_only_main_adds_an_epsilon_to_the_averaged_squares_of_unfactored_tensors():
    # The last three features are m · (v + 1e-6)^-½ on main, and here, and m · v^-½ in 0.0.1.
    ours, theirs = lopt_a_and_reference_steps(UNFACTORED, 1e-2)
    difference = largest_difference(ours, theirs)
    if upstream.FLAVOUR == "main":
        assert difference < 1e-5
    else:
        assert difference > 1e-3


def test_lopt_is_upstreams_mlp_lopt():
    lopt = LOpt(step_multiplier=1.0)
    theta = lopt.init(jax.random.PRNGKey(2))
    reference = MLPLOpt(step_mult=1.0, compute_summary=False)
    converted = {
        f"mlp/~/linear_{layer}": {"w": theta["mlp"][f"w{layer}"], "b": theta["mlp"][f"b{layer}"]}
        for layer in range(3)
    }
    expected_shapes = jax.tree.map(jnp.shape, reference.init(jax.random.PRNGKey(0)))
    assert jax.tree.map(jnp.shape, converted) == expected_shapes
    shapes = {**FACTORED, **UNFACTORED}
    ours, theirs = (steps(*x, shapes, 1e-1) for x in ((lopt, theta), (reference, converted)))
    assert largest_difference(ours, theirs) < 1e-5


def test_default_step_is_a_thousandth_of_the_direction():
    """With the default multipliers too, the step is that of upstream's defaults."""
    shapes = {"matrix": (4, 7)}
    theta = LOptA().init(jax.random.PRNGKey(2))
    ours = steps(LOptA(), theta, shapes, 1.0)
    theirs = steps(AdafacMLPLOpt(hidden_size=32), adafac_theta(theta), shapes, 1.0)
    # Parameters of size 3 in float32 are known to 1e-7, a step of 1e-3 to 1e-4 of itself.
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine["matrix"], other["matrix"], rtol=0, atol=5e-7)
        assert np.max(np.abs(other["matrix"])) > 1e-4
