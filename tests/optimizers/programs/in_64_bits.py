"""Every rule of the registry where JAX has 64 bits. Prints {check: error or ""} as JSON.

Its argument is a folder that a process with 32 bits wrote: thetas, and the parameters after a few
rounds.
"""

import functools
import json
import pathlib
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import optax
from small_rules import (
    LEARNED,
    RULES,
    learned_optimizer,
    make_params,
    make_round,
    rule,
    run,
    shapes_and_dtypes,
    stacked,
    step,
)

from comm_lopt.optimizers.every_h_steps import every_h_steps
from comm_lopt.round_state import RoundState
from comm_lopt.theta import load_theta, save_theta

ROUNDS = 3
IMPLEMENTATIONS = ("plain", "blockwise", "kernel")


def write(folder):
    """What the checks compare with, from a process with 32 bits."""
    for name in LEARNED:
        learned_opt = learned_optimizer(name)
        theta = learned_opt.init(jax.random.PRNGKey(0))
        save_theta(folder / name, learned_opt, theta, {"task": "none"})
    for name in RULES:
        np.savez(folder / f"{name}.npz", **run(name, make_params(), rounds())[0])


def rounds():
    return [make_round(make_params(), seed) for seed in range(ROUNDS)]


def agrees(name, dtype, folder):
    """A scan keeps all types, and gives what it gives with 32 bits."""
    params = make_params(dtype)
    transformation = rule(name)
    start = (params, transformation.init(params))
    given = stacked(rounds())
    if dtype == jnp.float64:  # As gradients of such parameters are.
        given = jax.tree.map(lambda d: d.astype(dtype), given)

    def one(carry, a_round):
        return step(transformation, *carry, a_round), None

    scanned = jax.jit(lambda start: jax.lax.scan(one, start, given)[0])(start)
    assert shapes_and_dtypes(scanned) == shapes_and_dtypes(start)
    expected = np.load(folder / f"{name}.npz")
    for n, value in scanned[0].items():
        np.testing.assert_allclose(value, expected[n], rtol=1e-5, atol=1e-6)


def theta_loads(name, folder):
    """A theta of 32 bits fits, and is what the same key gives here."""
    learned_opt, theta, _ = load_theta(folder / name, learned_optimizer(name))
    assert {leaf.dtype for leaf in jax.tree.leaves(theta)} == {np.dtype(np.float32)}
    for key in (jax.random.PRNGKey(0), jax.random.key(0)):
        jax.tree.map(np.testing.assert_array_equal, theta, learned_opt.init(key))
    opt, params = learned_opt.opt_fn(theta), make_params()
    delta, workers = make_round(params)
    state = opt.init(params)
    new = jax.eval_shape(
        lambda state: opt.update(state, delta, model_state=RoundState(None, workers)), state
    )
    assert shapes_and_dtypes(new) == shapes_and_dtypes(state)


def implementation_agrees(implementation):
    """A tensor of several tiles, of either type."""
    rng = np.random.default_rng(0)
    param, delta = (jnp.asarray(rng.normal(size=(70, 80)), jnp.float32) for _ in range(2))
    learned_opt, found = learned_optimizer("LOptA", implementation=implementation), []
    transformation = learned_opt.transformation(learned_opt.init(jax.random.PRNGKey(0)))
    for dtype in (jnp.float32, jnp.float64):
        p, d = param.astype(dtype), delta.astype(dtype)
        after, _ = step(transformation, p, transformation.init(p), (d, None))
        assert after.dtype == dtype
        found.append(after - p)
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-6)
    assert np.max(np.abs(found[1])) > 1e-4


def rounds_of_one_worker(dtype):
    transformation = every_h_steps(optax.adam(0.1), rule("LOptA"), 2)
    params = make_params(dtype)
    start = (params, transformation.init(params))
    gradient = jax.tree.map(lambda p: 0.1 * p, params)

    def one(carry, _):
        return step(transformation, *carry, (gradient, None)), None

    after, _ = jax.jit(lambda: jax.lax.scan(one, start, None, length=4))()
    assert shapes_and_dtypes(after) == shapes_and_dtypes(start)
    for begin, now in zip(*(jax.tree.leaves(c[0]) for c in (start, after)), strict=True):
        assert np.all(np.asarray(begin) != np.asarray(now))


def checks(folder):
    return {
        **{
            f"{jnp.dtype(dtype).name}-{n}": functools.partial(agrees, n, dtype, folder)
            for n in RULES
            for dtype in (jnp.float32, jnp.float64)
        },
        **{f"theta-{n}": functools.partial(theta_loads, n, folder) for n in LEARNED},
        **{i: functools.partial(implementation_agrees, i) for i in IMPLEMENTATIONS},
        **{
            f"rounds_of_one_worker-{jnp.dtype(dtype).name}": functools.partial(
                rounds_of_one_worker, dtype
            )
            for dtype in (jnp.float32, jnp.float64)
        },
    }


def main():
    assert jax.config.jax_enable_x64
    errors = {}
    for name, check in checks(pathlib.Path(sys.argv[1])).items():
        try:
            check()
            errors[name] = ""
        except Exception:
            errors[name] = traceback.format_exc(limit=-8)
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
