"""Every rule of the registry on a mesh of four devices. Prints {check: error or ""} as JSON."""

import functools
import json
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import optax
import small_rules
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from small_rules import RULES, make_round, rule, shapes_and_dtypes, step

from comm_lopt.optimizers.every_h_steps import every_h_steps
from comm_lopt.optimizers.learned.lopt import LOptA

SPECS = {"w": P(None, "model"), "b": P("model"), "empty": P("model")}


def make_params():
    rng = np.random.default_rng(0)
    shapes = {"w": (3, 4), "b": (4,), "empty": (0,)}
    return {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}


def assert_close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected
    )


@functools.cache
def expected_of(name):
    params = make_params()
    return jax.jit(functools.partial(step, rule(name)))(
        params, rule(name).init(params), make_round(params)
    )


def sharded(name, kind):
    """Parameters sharded along one axis of a mesh, worker deltas along both."""
    mesh = jax.make_mesh((2, 2), ("workers", "model"), (kind, kind))
    plain, plain_round = make_params(), make_round(make_params())

    def put(tree, leading=()):
        return {
            n: jax.device_put(array, NamedSharding(mesh, P(*leading, *SPECS[n])))
            for n, array in tree.items()
        }

    @jax.jit
    def update(params, a_round):
        state = rule(name).init(params)
        return state, *step(rule(name), params, state, a_round)

    with jax.set_mesh(mesh):
        params, workers = put(plain), put(plain_round[1], ("workers",))
        state, after, new = update(params, (put(plain_round[0]), workers))
        for n, array in params.items():
            same = after[n].sharding.is_equivalent_to(array.sharding, array.ndim)
            assert same or array.size == 0, (n, after[n].sharding)
    assert shapes_and_dtypes(new) == shapes_and_dtypes(state)
    if kind == AxisType.Explicit:
        assert jax.tree.map(jax.typeof, new) == jax.tree.map(jax.typeof, state)
    assert_close((after, new), expected_of(name))


def in_shard_map(name):
    """Every device computes the whole update."""
    mesh = jax.make_mesh((4,), ("workers",))
    params = make_params()

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=(P(), P("workers"), P()), out_specs=P())
    def update(params, mine, everyone):
        mean = jax.tree.map(lambda d: jax.lax.pmean(d[0], "workers"), mine)
        return step(rule(name), params, rule(name).init(params), (mean, everyone))

    _, everyone = make_round(params)
    mine = jax.device_put(everyone, NamedSharding(mesh, P("workers")))
    assert_close(update(params, mine, everyone), expected_of(name))


def tiles_in_shard_map():
    """A shard larger than a tile, whose type varies over the mesh."""
    mesh = jax.make_mesh((4,), ("workers",))
    learned_opt = LOptA(implementation="blockwise")
    transformation = learned_opt.transformation(learned_opt.init(jax.random.PRNGKey(0)))
    rng = np.random.default_rng(0)
    shape = (4 * 65, 80)
    params, delta = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))

    def update(params, delta):
        return step(transformation, params, transformation.init(params), (delta, None))[0]

    shards = P("workers")
    mapped = jax.shard_map(update, mesh=mesh, in_specs=(shards, shards), out_specs=shards)
    found = np.asarray(
        jax.jit(mapped)(*jax.device_put((params, delta), NamedSharding(mesh, shards)))
    )
    one = jax.jit(update)
    for number in range(4):
        rows = slice(number * 65, (number + 1) * 65)
        assert_close(found[rows], one(params[rows], delta[rows]))


def mapped_on_an_explicit_mesh():
    """Several models at once, as meta-training has them."""
    params, (delta, _) = make_params(), make_round(make_params())
    transformation = rule("LOptA")

    def update(params):
        return step(transformation, params, transformation.init(params), (delta, None))

    many = small_rules.stacked([params, jax.tree.map(lambda p: p + 1, params)])
    expected = jax.jit(jax.vmap(update))(many)
    with jax.set_mesh(jax.make_mesh((4,), ("workers",))):
        assert_close(jax.jit(jax.vmap(update))(many), expected)


def rounds_of_one_worker(kind, name="LOptA"):
    """`every_h_steps` on sharded parameters."""
    params, (gradient, _) = make_params(), make_round(make_params())
    transformation = every_h_steps(optax.adam(0.1), rule(name), 2)

    def train(params, gradient):
        state = transformation.init(params)
        for _ in range(3):
            params, state = step(transformation, params, state, (gradient, None))
        return params, state

    expected = jax.jit(train)(params, gradient)
    mesh = jax.make_mesh((2, 2), ("workers", "model"), (kind, kind))
    with jax.set_mesh(mesh):
        put = [
            {n: jax.device_put(array, NamedSharding(mesh, SPECS[n])) for n, array in tree.items()}
            for tree in (params, gradient)
        ]
        assert_close(jax.jit(train)(*put), expected)


CHECKS = {
    **{f"auto-{n}": functools.partial(sharded, n, AxisType.Auto) for n in RULES},
    **{f"explicit-{n}": functools.partial(sharded, n, AxisType.Explicit) for n in RULES},
    **{f"shard_map-{n}": functools.partial(in_shard_map, n) for n in RULES},
    "tiles_in_shard_map": tiles_in_shard_map,
    "mapped_on_an_explicit_mesh": mapped_on_an_explicit_mesh,
    "rounds_of_one_worker-auto": functools.partial(rounds_of_one_worker, AxisType.Auto),
    "rounds_of_one_worker-explicit": functools.partial(rounds_of_one_worker, AxisType.Explicit),
    "steered_rounds-explicit": functools.partial(rounds_of_one_worker, AxisType.Explicit, "LOptR"),
}


def main():
    assert jax.device_count() == 4
    small_rules.K = 4  # A worker a device.
    wanted = sys.argv[1:] or CHECKS
    errors = {}
    for name in wanted:
        try:
            CHECKS[name]()
            errors[name] = ""
        except Exception:
            errors[name] = traceback.format_exc(limit=-8)
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
