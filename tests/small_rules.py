"""Every rule of the registry, on small parameters, and its step compiled once for all tests."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from comm_lopt.optimizers.as_upstream import as_upstream
from comm_lopt.optimizers.learned.multiplicative import MultiplicativeRule
from comm_lopt.optimizers.registry import OPTIMIZERS
from comm_lopt.tasks.averages import mean_of_squares
from comm_lopt.upstream import LearnedOptimizer

K = 3
TIMES_TRACED: collections.Counter[str] = collections.Counter()
NAMES = sorted(OPTIMIZERS)
LEARNED = [name for name in NAMES if OPTIMIZERS[name].is_learned]
DESIGNED = [name for name in NAMES if not OPTIMIZERS[name].is_learned]
# One entry of each rule: several stand there more than once, with other hyperparameters.
RULES = sorted({OPTIMIZERS[name].make: name for name in reversed(NAMES)}.values())
NEEDS_WORKERS = [name for name in NAMES if OPTIMIZERS[name].sends == "worker_deltas"]
NEEDS_SQUARES = [name for name in NAMES if OPTIMIZERS[name].sends == "mean_and_squares"]
NEEDS_THE_MEAN_ALONE = [name for name in NAMES if OPTIMIZERS[name].sends in ("mean", "gradient")]


class AlongRoots(LearnedOptimizer):
    """Steps by −rate · √q, where q is the mean over workers of the squares of their deltas."""

    needs_worker_squares = True
    name = "AlongRoots"

    def init(self, key):
        return {"rate": jnp.float32(0.1)}

    def transformation(self, theta):
        def update(delta, state, params=None, *, worker_squares, **extra):
            return jax.tree.map(lambda q: -theta["rate"] * jnp.sqrt(q), worker_squares), state

        return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)

    def opt_fn(self, theta, is_training=False):
        return as_upstream(self.transformation(theta), self.name)


def learned_optimizer(name, **arguments):
    workers = {"num_workers": K} if name in NEEDS_WORKERS else {}
    return OPTIMIZERS[name].make(**workers, **arguments)


def multipliers(name, **found):
    """The arguments that only a published rule has; none for a relative one."""
    return found if issubclass(OPTIMIZERS[name].make, MultiplicativeRule) else {}


def hyperparameters(name):
    """What the registry gives a hand-designed rule in place of its defaults."""
    defaults = OPTIMIZERS[name].defaults
    return {key: value for key, value in defaults.items() if not key.startswith("local_")}


def theta_of(name, seed=0):
    """A random theta; None for a hand-designed rule."""
    return learned_optimizer(name).init(jax.random.PRNGKey(seed)) if name in LEARNED else None


def rule(name, theta=None):
    if name in LEARNED:
        return learned_optimizer(name).transformation(theta_of(name) if theta is None else theta)
    return OPTIMIZERS[name].make(**hyperparameters(name))


def make_params(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = {"w": (3, 4), "b": (4,)}
    return {n: jnp.asarray(rng.normal(size=shape), dtype) for n, shape in shapes.items()}


def make_round(params, seed=1, scale=1e-2):
    """A mean Δ and the worker deltas that it is the mean of, all float32."""
    rng = np.random.default_rng(seed)
    workers = jax.tree.map(
        lambda p: jnp.asarray(scale * rng.normal(size=(K, *p.shape)), jnp.float32), params
    )
    return jax.tree.map(lambda w: jnp.mean(w, axis=0), workers), workers


def step(transformation, params, state, a_round):
    """The parameters and the state after an update."""
    delta, workers = a_round
    updates, state = transformation.update(
        delta, state, params, worker_deltas=workers, worker_squares=mean_of_squares(workers),
        value=jnp.float32(1.0),
    )  # fmt: skip
    return optax.apply_updates(params, updates), state


@functools.cache
def compiled(name):
    """`step` of a rule under jit, as a function of theta too. Parameters and state are donated."""

    def traced(theta, *arrays):
        TIMES_TRACED[name] += 1
        return step(rule(name, theta), *arrays)

    return jax.jit(traced, donate_argnums=(1, 2))


def run(name, params, rounds, theta=None):
    """The parameters and the state after several rounds, compiled."""
    theta = theta_of(name) if theta is None else theta
    carry = jax.tree.map(jnp.copy, (params, rule(name).init(params)))
    for a_round in rounds:
        carry = compiled(name)(theta, *carry, a_round)
    return carry


def shapes_and_dtypes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
