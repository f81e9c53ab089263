"""A tensor that the local steps freeze is left where it is by the global step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_rules import LEARNED, K, learned_optimizer, multipliers
from small_tasks import SoftmaxRegression, assert_trees_equal, softmax_batches

from comm_lopt.optimizers.as_upstream import as_upstream
from comm_lopt.optimizers.learned.lagg import LAggA
from comm_lopt.optimizers.rules import slowmo
from comm_lopt.round_state import RoundState
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily
from comm_lopt.upstream import single_task_to_family

H = 2


def frozen_bias():
    return optax.multi_transform(
        {"trained": optax.sgd(0.1), "frozen": optax.set_to_zero()},
        {"w": "trained", "b": "frozen"},
    )


def train(opt, rounds=3, **of_workers):
    family = LocalSGDTaskFamily(
        single_task_to_family(SoftmaxRegression()),
        K,
        H,
        frozen_bias(),
        **of_workers,
    )
    task = family.task_fn(0)
    key = jax.random.PRNGKey(0)
    state = opt.init(*task.init_with_state(key))

    @jax.jit
    def one_round(state, batches):
        params, model_state = opt.get_params_state(state)
        loss_and_grad = jax.value_and_grad(task.loss_with_state, has_aux=True)
        (loss, model_state), delta = loss_and_grad(params, model_state, key, batches)
        return opt.update(state, delta, loss=loss, model_state=model_state)

    before = opt.get_params(state)
    for seed in range(rounds):
        state = one_round(state, softmax_batches((K, H), 4, seed))
    return before, opt.get_params(state)


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_rule_leaves_a_frozen_tensor_where_it_is(name):
    learned_opt = learned_optimizer(name, **multipliers(name, step_multiplier=0.1))
    opt = learned_opt.opt_fn(learned_opt.init(jax.random.PRNGKey(0)))
    needs = {
        "worker_deltas": learned_opt.needs_worker_deltas,
        "worker_squares": learned_opt.needs_worker_squares,
    }
    before, after = train(opt, **needs)
    assert_trees_equal(after["b"], before["b"])
    assert np.all(np.abs(after["w"] - before["w"]) > 1e-4)


def test_so_does_a_hand_designed_one():
    before, after = train(as_upstream(slowmo(), "SlowMo"))
    assert_trees_equal(after["b"], before["b"])
    assert np.all(np.abs(after["w"] - before["w"]) > 1e-4)


@pytest.mark.parametrize("name", ["LOptA", "LOptR"])
def test_a_tensor_frozen_later_is_not_moved_by_what_is_remembered_of_it(name):
    learned_opt = learned_optimizer(name, **multipliers(name, step_multiplier=0.1))
    opt = learned_opt.opt_fn(learned_opt.init(jax.random.PRNGKey(0)))
    params = {"w": jnp.ones((2, 3))}
    update = jax.jit(opt.update)
    moved = update(opt.init(params), {"w": jnp.ones((2, 3))})
    assert np.all(np.abs(moved.params["w"] - 1.0) > 1e-4)
    still = update(moved, {"w": jnp.zeros((2, 3))})
    assert_trees_equal(still.params, moved.params)


def test_a_tensor_that_one_worker_moved_is_not_frozen():
    """Nor is one whose workers' deltas cancel."""
    learned_opt = LAggA(2, step_multiplier=0.1)
    opt = learned_opt.opt_fn(learned_opt.init(jax.random.PRNGKey(0)))
    params, delta = jnp.ones((2, 3)), jnp.full((2, 3), 0.1)
    for first, second in ((delta, -delta), (jnp.zeros((2, 3)), delta)):
        carried = RoundState(None, jnp.stack([first, second]))
        state = opt.update(opt.init(params), (first + second) / 2, model_state=carried)
        assert np.all(np.asarray(state.params) != 1.0)
