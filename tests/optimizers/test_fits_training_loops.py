"""The rules where people train: MaxText's synchronisation, Flax NNX's optimizer, a Haiku loop."""

from typing import Any

import drjax
import flax.struct
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small_tasks import assert_trees_close, assert_trees_equal

from comm_lopt.optimizers.as_upstream import as_upstream
from comm_lopt.optimizers.every_h_steps import every_h_steps
from comm_lopt.optimizers.learned.lagg import LAggA
from comm_lopt.optimizers.learned.lopt import LOptA
from comm_lopt.optimizers.rules import nesterov
from comm_lopt.round_state import RoundState

# Haiku, Flax and optax promote types.
pytestmark = pytest.mark.usefixtures("ordinary_promotion")

K, H = 4, 2


def learned(learned_opt):
    return learned_opt.transformation(learned_opt.init(jax.random.PRNGKey(0)))


@flax.struct.dataclass
class ReplicatedState:
    """What MaxText's DiLoCo carries: outer parameters, and a copy of the model a replica."""

    params: Any
    outer_opt_state: Any
    inner_params: Any


def synchronize_full_state(state, outer_optimizer, mesh=None):
    """The outer step, in the form of the function of this name in AI-Hypercomputer/maxtext."""

    @drjax.program(placements={"diloco": K})
    def synchronized(state):
        outer_params = drjax.broadcast(state.params, mesh=mesh)
        deltas = jax.tree.map(jnp.subtract, outer_params, state.inner_params)
        pseudo_gradient = drjax.reduce_mean(deltas)
        updates, opt_state = outer_optimizer.update(
            pseudo_gradient, state.outer_opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        return ReplicatedState(params, opt_state, drjax.broadcast(params, mesh=mesh))

    return synchronized(state)


def trained_apart(params, seed):
    """A copy of the parameters for each of K replicas, after steps of its own: [K, ...]."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda p: p[None] + jnp.asarray(0.01 * rng.normal(size=(K, *p.shape)), p.dtype), params
    )


@pytest.mark.parametrize("name", ["LOptA", "nesterov"])
@pytest.mark.filterwarnings("ignore:The .pxla.:DeprecationWarning")
def test_outer_step_of_maxtexts_form_is_a_global_update(name):
    transformation = nesterov(0.7, 0.9) if name == "nesterov" else learned(LOptA())
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "b": jnp.ones(4)}
    opt = as_upstream(transformation, name)
    ours = opt.init(params)
    theirs = ReplicatedState(params, transformation.init(params), trained_apart(params, 0))
    synchronize = jax.jit(lambda state: synchronize_full_state(state, transformation))
    update = jax.jit(lambda state, delta: opt.update(state, delta))
    for seed in range(3):
        inner = trained_apart(ours.params, seed)
        theirs = synchronize(theirs.replace(inner_params=inner))
        deltas = jax.tree.map(lambda p, w: p[None] - w, ours.params, inner)
        ours = update(ours, jax.tree.map(lambda d: jnp.mean(d, axis=0), deltas))
        assert_trees_close(theirs.params, ours.params)
        for leaf, copies in zip(
            jax.tree.leaves(theirs.params), jax.tree.leaves(theirs.inner_params), strict=True
        ):
            np.testing.assert_array_equal(copies, np.broadcast_to(leaf, copies.shape))
    assert np.all(np.asarray(ours.params["w"] != params["w"]))


class Model(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.last = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))


def regression(seed=0, shape=(32,)):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(*shape, 3)).astype(np.float32)
    return x, np.sin(x.sum(-1, keepdims=True)).astype(np.float32)


def test_flax_nnx_optimizer_trains_by_rounds_of_one_worker():
    model = Model(nnx.Rngs(0))
    transformation = every_h_steps(optax.adamw(0.05), learned(LOptA()), 4)
    optimizer = nnx.Optimizer(model, transformation, wrt=nnx.Param)
    x, y = regression()

    def loss(model):
        return jnp.mean(jnp.square(model(x) - y))

    @nnx.jit
    def train_step(model, optimizer):
        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    # The same with plain trees.
    graph, params = nnx.split(model)
    params = jax.tree.map(jnp.copy, nnx.to_pure_dict(params))
    state = transformation.init(params)

    @jax.jit
    def plain_step(params, state):
        def loss_of(params):
            return loss(nnx.merge(graph, nnx.State(params)))

        updates, state = transformation.update(jax.grad(loss_of)(params), state, params)
        return optax.apply_updates(params, updates), state

    losses = []
    for _ in range(12):
        losses.append(float(train_step(model, optimizer)))
        params, state = plain_step(params, state)
    assert_trees_close(nnx.to_pure_dict(nnx.state(model)), params, rtol=1e-4, atol=1e-5)
    assert losses[3] < losses[0]
    # Parameters are those of any model, so that it is saved and restored as any other.
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert [leaf.shape for leaf in leaves] == [(4,), (3, 4), (1,), (4, 1)]


@pytest.mark.parametrize("learned_opt", [LOptA(), LAggA(K)], ids=["LOptA", "LAggA"])
def test_plain_haiku_loop_of_several_workers(learned_opt):
    network = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([4, 1])(x)))
    x, y = regression(shape=(K, H, 8))
    params = network.init(jax.random.PRNGKey(0), x[0, 0])
    transformation = learned(learned_opt)
    inner = optax.sgd(0.1)

    def worker(params, x, y):
        opt_state = inner.init(params)
        for h in range(H):
            gradient = jax.grad(lambda p, h=h: jnp.mean(jnp.square(network.apply(p, x[h]) - y[h])))
            updates, opt_state = inner.update(gradient(params), opt_state)
            params = optax.apply_updates(params, updates)
        return params

    @jax.jit
    def one_round(params, state):
        after = jax.vmap(worker, in_axes=(None, 0, 0))(params, x, y)
        deltas = jax.tree.map(lambda p, w: p[None] - w, params, after)
        delta = jax.tree.map(lambda d: jnp.mean(d, axis=0), deltas)
        updates, state = transformation.update(delta, state, params, worker_deltas=deltas)
        return optax.apply_updates(params, updates), state, (delta, deltas)

    opt = as_upstream(transformation, "ours")
    update = jax.jit(lambda *arrays: opt.update(*arrays[:2], model_state=arrays[2]))
    state, ours = transformation.init(params), opt.init(params)
    for _ in range(2):
        before = params
        params, state, (delta, deltas) = one_round(params, state)
        assert jax.tree.structure(params) == jax.tree.structure(before)
        ours = update(ours, delta, RoundState(None, deltas))
        assert_trees_close(ours.params, params)
        moved = jax.tree.map(lambda p, q: bool(jnp.any(p != q)), before, params)
        assert all(jax.tree.leaves(moved))
    assert_trees_equal(state.inner.count, jnp.int32(2))
