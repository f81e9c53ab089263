"""What a round takes from the one before, and who takes part in it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_tasks import (
    SoftmaxRegression,
    assert_trees_close,
    assert_trees_equal,
    numpy_worker,
    pick,
    softmax_batches,
    softmax_loss_and_gradient,
)

from comm_lopt.data.feeding.partition import DirichletParts
from comm_lopt.data.sources.digits import digits_datasets
from comm_lopt.optimizers.as_upstream import as_upstream
from comm_lopt.optimizers.rules import averaging
from comm_lopt.round_state import RoundState, between_rounds, round_state
from comm_lopt.tasks.averages import mean_of_squares, weighted_mean
from comm_lopt.tasks.data_parallel import DataParallelTaskFamily
from comm_lopt.tasks.digits import digits_mlp
from comm_lopt.tasks.local_optimizers import local_sgd
from comm_lopt.tasks.local_round import local_round
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily
from comm_lopt.tasks.single_worker import SingleWorkerTaskFamily
from comm_lopt.upstream import single_task_to_family

KEY = jax.random.PRNGKey(0)
K, H, RATE, DECAY = 3, 4, 0.3, 0.8
MOMENTUM = optax.sgd(RATE, momentum=DECAY)


def make_family(cls=LocalSGDTaskFamily, **arguments):
    inner = single_task_to_family(SoftmaxRegression())
    return cls(inner, K, H, **{"local_opt": MOMENTUM, **arguments})


def as_numpy(params):
    return {name: np.asarray(value, np.float64) for name, value in params.items()}


def momentum_worker(params, momenta, batches, k):
    """Weights and momenta of worker k after H steps of SGD with momentum."""
    weights, momenta = as_numpy(params), dict(momenta)
    for h in range(H):
        _, gradient = softmax_loss_and_gradient(weights, pick(batches, k, h))
        momenta = {n: DECAY * momenta[n] + gradient[n] for n in weights}
        weights = {n: weights[n] - RATE * momenta[n] for n in weights}
    return weights, momenta


def mean(trees):
    return {name: np.mean([tree[name] for tree in trees], axis=0) for name in trees[0]}


def two_rounds(task, opt, rounds):
    """Weights after the rounds, by upstream's way of training."""
    state = opt.init(*task.init_with_state(jax.random.PRNGKey(1)), num_steps=2)
    step = jax.jit(jax.value_and_grad(task.loss_with_state, has_aux=True))
    for number, batches in enumerate(rounds):
        params, model_state = opt.get_params_state(state)
        key = jax.random.fold_in(KEY, number)
        (loss, model_state), delta = step(params, model_state, key, batches)
        state = opt.update(state, delta, loss=loss, model_state=model_state)
    return opt.get_params(state), opt.get_state(state)


@pytest.mark.parametrize("persists", [False, True])
def test_momenta_of_local_steps_are_each_workers_own_and_persist_if_told_to(persists):
    task = make_family(local_state_persists=persists).task_fn(0)
    rounds = [softmax_batches((K, H), 7, seed) for seed in range(2)]
    params, kept = two_rounds(task, as_upstream(averaging()), rounds)
    expected = as_numpy(task.init(jax.random.PRNGKey(1)))
    fresh = {name: np.zeros_like(value) for name, value in expected.items()}
    momenta = [fresh] * K
    for batches in rounds:
        start = momenta if persists else [fresh] * K
        ends = [momentum_worker(expected, start[k], batches, k) for k in range(K)]
        expected, momenta = mean([weights for weights, _ in ends]), [m for _, m in ends]
    assert_trees_close(params, expected)
    if persists:
        trace = optax.tree.get(kept.local_opt_states, "trace")
        assert_trees_close(trace, {n: np.stack([m[n] for m in momenta]) for n in expected})
    else:
        assert kept is None


def test_local_states_are_carried_beside_the_model_state_and_not_evaluated():
    task = make_family(local_state_persists=True).task_fn(0)
    params, state = task.init_with_state(KEY)
    assert isinstance(state, RoundState) and state.model_state is None
    batches = softmax_batches((K, H), 7)
    loss, same, _ = task.loss_with_state_and_aux(params, state, KEY, batches)
    plain, _ = make_family().task_fn(0).loss_and_aux(params, KEY, batches)
    np.testing.assert_array_equal(loss, plain)
    assert_trees_equal(same, state)


@pytest.mark.parametrize("cls", [LocalSGDTaskFamily, SingleWorkerTaskFamily])
@pytest.mark.parametrize("persists", [False, True])
def test_a_steered_round_is_one_of_another_local_rate(cls, persists):
    """Of SGD, whose state does not know its rate, so that it is the same too."""
    steered, half = (
        make_family(cls, local_opt=optax.sgd(rate, DECAY), local_state_persists=persists).task_fn(0)
        for rate in (RATE, RATE / 2)
    )
    params, state = steered.init_with_state(KEY)
    kept = state.local_opt_states if persists else None
    kept = jax.tree.map(lambda leaf: leaf + 0.1, kept)
    batches = softmax_batches((K, H), 7)

    def one_round(task, rate):
        given = RoundState(None, local_opt_states=kept, local_rate=rate)
        return jax.jit(jax.value_and_grad(task.loss_with_state, has_aux=True))(
            params, given, KEY, batches
        )

    found = one_round(steered, jnp.float32(0.5))
    (loss, state), delta = found
    one_step = cls(single_task_to_family(SoftmaxRegression()), K, 1).task_fn(0)
    first = jax.tree.map(lambda leaf: leaf[:, :1], batches)
    np.testing.assert_allclose(state.start_loss, one_step.loss(params, KEY, first), rtol=1e-6)
    (expected_loss, expected), expected_delta = one_round(half, None)
    assert_trees_close((loss, delta), (expected_loss, expected_delta))
    assert_trees_close(state._replace(start_loss=None), round_state(expected))
    assert not np.allclose(found[1]["w"], one_round(steered, None)[1]["w"], rtol=0.1, atol=0)


def test_a_family_that_is_not_steered_keeps_its_rate():
    given, batches = RoundState(None, local_rate=jnp.float32(0.5)), softmax_batches((K, H), 7)

    def loss_after(state, **arguments):
        task = make_family(LocalSGDTaskFamily, **arguments).task_fn(0)
        return task.loss_with_state(task.init(KEY), state, KEY, batches)[0]

    assert loss_after(given, steered=False) == loss_after(None)
    assert loss_after(given) != loss_after(None)


def test_what_is_stored_has_no_deltas_and_is_the_model_state_alone_if_nothing_lasts():
    deltas, weights = {"w": jnp.ones((K, 2))}, jnp.ones(K)
    assert between_rounds({"a": 1}) == {"a": 1}
    assert between_rounds(RoundState({"a": 1}, deltas, weights)) == {"a": 1}
    stored = between_rounds(RoundState({"a": 1}, deltas, weights, {"m": 2}, deltas))
    assert stored == RoundState({"a": 1}, local_opt_states={"m": 2})
    assert between_rounds({"a": 1}, 0.5) == RoundState({"a": 1}, local_rate=0.5)


def run_round(params, batches, weights=None, states=None, **changes):
    return local_round(
        SoftmaxRegression(), params, None, KEY, batches, MOMENTUM, K, H,
        None if weights is None else jnp.asarray(weights, jnp.float32), states, **changes,
    )  # fmt: skip


def test_weights_are_those_of_the_mean_and_who_has_none_is_absent():
    params = SoftmaxRegression().init(jax.random.PRNGKey(1))
    batches = softmax_batches((K, H), 7)
    zeros = {name: np.zeros(value.shape) for name, value in params.items()}
    first = run_round(params, batches)
    out = run_round(params, batches, [3.0, 0.0, 1.0], first.local_opt_states)
    momenta = [momentum_worker(params, zeros, batches, k)[1] for k in range(K)]
    ends = [momentum_worker(params, momenta[k], batches, k) for k in range(K)]
    expected = {n: np.asarray(params[n]) - (3 * ends[0][0][n] + ends[2][0][n]) / 4 for n in params}
    assert_trees_close(out.delta, expected)
    losses = np.mean(out.losses, axis=1)
    np.testing.assert_allclose(out.loss, (3 * losses[0] + losses[2]) / 4, rtol=1e-6)
    trace = optax.tree.get(out.local_opt_states, "trace")
    kept = {n: np.stack([ends[0][1][n], momenta[1][n], ends[2][1][n]]) for n in params}
    assert_trees_close(trace, kept)


def test_nothing_moves_where_nobody_takes_part():
    params = SoftmaxRegression().init(jax.random.PRNGKey(1))
    out = run_round(params, softmax_batches((K, H), 7), np.zeros(K))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(out.delta))
    assert np.isfinite(out.loss)


@pytest.mark.parametrize(("participation", "there"), [(2, 2), (0.34, 1), (1.0, 3), (0.01, 1)])
def test_so_many_workers_take_part_as_told_and_others_in_other_rounds(participation, there):
    family = make_family(local_opt=local_sgd(RATE), participation=participation)
    weights = np.stack([family.worker_weights(jax.random.PRNGKey(i)) for i in range(40)])
    assert set(np.unique(weights)) <= {0.0, 1.0}
    np.testing.assert_array_equal(weights.sum(1), there)
    assert np.all(weights.any(0))
    np.testing.assert_array_equal(weights[0], family.worker_weights(jax.random.PRNGKey(0)))


class Draws(SoftmaxRegression):
    """Its loss is a draw, which tells the key that a round was given."""

    def loss(self, params, key, data):
        return jax.random.uniform(key) + 0.0 * jnp.sum(params["b"])


def test_who_takes_part_is_drawn_with_another_key_than_the_round_has():
    inner = single_task_to_family(Draws())
    losses = [
        LocalSGDTaskFamily(inner, K, H, local_sgd(RATE), participation=count)
        .task_fn(0)
        .loss({"b": jnp.ones(3)}, KEY, ())
        for count in (None, K)
    ]
    assert losses[0] != losses[1]


def test_round_with_absent_workers_is_the_mean_of_those_there():
    task = make_family(local_opt=local_sgd(RATE), participation=2, worker_squares=True).task_fn(0)
    params = task.init(jax.random.PRNGKey(1))
    batches = softmax_batches((K, H), 7)
    (_, state), delta = jax.value_and_grad(task.loss_with_state, has_aux=True)(
        params, None, KEY, batches
    )
    there = np.flatnonzero(state.worker_weights)
    assert len(there) == 2
    ends = [numpy_worker(params, batches, k, H, RATE)[0] for k in there]
    assert_trees_close(delta, {n: np.asarray(params[n]) - mean(ends)[n] for n in params})
    squares = [{n: (np.asarray(params[n]) - end[n]) ** 2 for n in params} for end in ends]
    assert_trees_close(state.worker_squares, mean(squares))
    assert state.worker_deltas is None


def test_squares_are_averaged_as_the_deltas_are_and_nobodys_are_zero():
    params = SoftmaxRegression().init(jax.random.PRNGKey(1))
    batches = softmax_batches((K, H), 7)
    weights = np.asarray([[1.0, 1.0, 1.0], [3.0, 0.0, 1.0], [0.0, 0.0, 0.0]], np.float32)

    @jax.jit
    def squares(weights):
        def of(w):
            return run_round(params, batches, w, worker_squares=True).worker_squares

        return of(None), jax.vmap(of)(weights)

    plain, weighted = squares(weights)
    zeros = {name: np.zeros(value.shape) for name, value in params.items()}
    ends = [momentum_worker(params, zeros, batches, k)[0] for k in range(K)]
    expected = {name: np.zeros((len(weights), *value.shape)) for name, value in params.items()}
    for name, q in expected.items():
        for of_round, shares in zip(q, weights / np.asarray([[3], [4], [1]]), strict=True):
            for end, share in zip(ends, shares, strict=True):
                of_round += share * (np.asarray(params[name]) - end[name]) ** 2
    assert_trees_close(weighted, expected, rtol=1e-4, atol=1e-7)
    assert_trees_close(plain, {n: q[0] for n, q in expected.items()}, rtol=1e-4, atol=1e-7)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(weighted))
    assert run_round(params, batches).worker_squares is None


def test_what_an_absent_worker_did_plays_no_part_be_it_not_a_number():
    deltas = {"w": jnp.asarray([[1.0, 2.0], [jnp.nan, jnp.inf], [3.0, 4.0]], jnp.bfloat16)}
    weights = jnp.asarray([1.0, 0.0, 3.0])
    squares = mean_of_squares(deltas, weights)["w"]
    assert squares.dtype == jnp.float32
    np.testing.assert_array_equal(squares, [7.0, 13.0])
    mean = weighted_mean(deltas["w"].astype(jnp.float32), weights)
    np.testing.assert_array_equal(mean, [2.5, 3.5])


@pytest.mark.parametrize("participation", [0, 4, -1, 1.5, 0.0, True])
def test_participation_that_makes_no_sense_is_an_error(participation):
    if participation is True:
        participation = 2.0
    with pytest.raises(ValueError, match=r"must be a count from 1 to num_workers=3, or a fraction"):
        make_family(participation=participation)


def test_workers_with_parts_of_unequal_size_count_by_their_examples():
    datasets = digits_datasets(batch_size=4)
    family = LocalSGDTaskFamily(
        digits_mlp((4,), datasets), K, 1, local_sgd(RATE), partition=DirichletParts(0.5)
    )
    sizes = family.datasets.train.part_sizes()
    assert len(set(sizes)) > 1
    np.testing.assert_array_equal(family.worker_weights(KEY), np.asarray(sizes, np.float32))
    task = family.task_fn(family.sample(KEY))
    params = task.init(KEY)
    batches = next(family.datasets.train)
    delta = jax.grad(task.loss)(params, KEY, batches)
    gradients = [jax.grad(task.inner.loss)(params, KEY, batches[k, 0]) for k in range(K)]
    shares = np.asarray(sizes) / np.sum(sizes)
    weighted = jax.tree.map(
        lambda *g: RATE * sum(s * np.asarray(x) for s, x in zip(shares, g, strict=True)),
        *gradients,
    )
    assert_trees_close(delta, weighted)


def test_one_worker_takes_its_local_steps_on_the_batches_of_all():
    task = make_family(SingleWorkerTaskFamily, local_state_persists=True).task_fn(0)
    params, state = task.init_with_state(jax.random.PRNGKey(1))
    batches = softmax_batches((K, H), 7)
    (loss, state), delta = jax.value_and_grad(task.loss_with_state, has_aux=True)(
        params, state, KEY, batches
    )
    union = {n: np.concatenate(list(v), axis=1)[None] for n, v in batches.items()}
    zeros = {name: np.zeros(value.shape) for name, value in params.items()}
    weights, momenta = momentum_worker(params, zeros, union, 0)
    assert_trees_close(delta, {n: np.asarray(params[n]) - weights[n] for n in params})
    trace = optax.tree.get(state.local_opt_states, "trace")
    assert_trees_close(trace, {n: momenta[n][None] for n in params})
    assert task.name == "SingleWorker_SoftmaxRegression"
    # The next round goes on with these momenta.
    delta = jax.grad(lambda p: task.loss_with_state(p, state, KEY, batches)[0])(params)
    weights, _ = momentum_worker(params, momenta, union, 0)
    assert_trees_close(delta, {n: np.asarray(params[n]) - weights[n] for n in params})


def test_one_worker_leaves_the_batches_of_absent_workers_out():
    family = make_family(
        SingleWorkerTaskFamily, local_opt=local_sgd(RATE), participation=2, worker_squares=True
    )
    task = family.task_fn(0)
    params = task.init(jax.random.PRNGKey(1))
    batches = softmax_batches((K, H), 7)
    (_, state), delta = jax.value_and_grad(task.loss_with_state, has_aux=True)(
        params, None, KEY, batches
    )
    there = np.flatnonzero(state.worker_weights)
    union = {n: np.concatenate(list(v[there]), axis=1)[None] for n, v in batches.items()}
    weights, _ = numpy_worker(params, union, 0, H, RATE)
    assert_trees_close(delta, {n: np.asarray(params[n]) - weights[n] for n in params})
    assert_trees_close(state.worker_squares, {n: np.square(d) for n, d in delta.items()})


def test_data_parallel_workers_have_nothing_to_hand_on():
    for wrong in ("worker_deltas", "worker_squares", "local_state_persists"):
        with pytest.raises(ValueError, match="take no local steps"):
            make_family(DataParallelTaskFamily, **{wrong: True})


def test_data_parallel_gradient_leaves_absent_workers_out():
    task = make_family(DataParallelTaskFamily, participation=2).task_fn(0)
    params = task.init(jax.random.PRNGKey(1))
    batches = softmax_batches((K, H), 7)
    (_, state), gradient = jax.value_and_grad(task.loss_with_state, has_aux=True)(
        params, None, KEY, batches
    )
    there = np.flatnonzero(state.worker_weights)
    union = {n: v[there].reshape(-1, *v.shape[3:]) for n, v in batches.items()}
    assert_trees_close(gradient, softmax_loss_and_gradient(params, union)[1])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_delta_of_a_round_without_a_step_is_exactly_zero(dtype):
    params = jax.tree.map(
        lambda p: p.astype(dtype), SoftmaxRegression().init(jax.random.PRNGKey(1))
    )
    batches = jax.tree.map(jnp.asarray, softmax_batches((K, H), 7))
    batches["x"] = batches["x"].astype(dtype)
    out = local_round(SoftmaxRegression(), params, None, KEY, batches, local_sgd(0.0), K, H)
    for leaf in jax.tree.leaves((out.delta, out.worker_deltas)):
        assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))


@pytest.mark.parametrize("count", [3, 100])
def test_weighted_mean_is_that_of_numpy_however_many_terms_it_has(count):
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=(count, 5)).astype(np.float32), rng.uniform(size=count)
    np.testing.assert_allclose(
        weighted_mean(jnp.asarray(values), jnp.asarray(weights, jnp.float32)),
        np.average(values, axis=0, weights=weights), rtol=1e-5, atol=1e-6,
    )  # fmt: skip
    plain = weighted_mean(jnp.asarray(values), None)
    np.testing.assert_allclose(plain, values.mean(0), rtol=1e-5, atol=1e-6)
