"""What workers send in place of their deltas: messages, error feedback, and rounds with both."""

import functools

import gin
import jax
import jax.numpy as jnp
import numpy as np
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

import comm_lopt
from comm_lopt import Int8, TopK
from comm_lopt.meta_test import Problem
from comm_lopt.meta_test.problem import differences
from comm_lopt.meta_test.runs import advance_run, bytes_per_round, chunks_of_rounds, start_run
from comm_lopt.round_state import RoundState, between_rounds
from comm_lopt.tasks import compression as compressions
from comm_lopt.tasks.compression import Residuals, no_residuals
from comm_lopt.tasks.data_parallel import DataParallelTaskFamily
from comm_lopt.tasks.local_optimizers import local_sgd
from comm_lopt.tasks.local_round import local_round
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily
from comm_lopt.tasks.single_worker import SingleWorkerTaskFamily
from comm_lopt.upstream import single_task_to_family

KEY = jax.random.PRNGKey(0)
K, H, RATE = 3, 2, 0.3
SHAPES = {"matrix": (4, 5), "vector": (7,), "scalar": (), "empty": (0, 3)}
sent = jax.jit(compressions.sent, static_argnums=0)
EACH = pytest.mark.parametrize("compression", [Int8(), TopK(0.3)], ids=["Int8", "TopK"])


def deltas_of(seed, num_workers=K):
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(rng.normal(size=(num_workers, *shape)), jnp.float32)
        for name, shape in SHAPES.items()
    }


def numpy_received(compression, x):
    """One worker's message of one tensor as it is received, in float64."""
    x = np.asarray(x, np.float64)
    if isinstance(compression, Int8):
        scale = np.abs(x).max(initial=0) / 127
        return scale * np.round(x / scale) if scale else np.zeros_like(x)
    kept = np.zeros_like(x).ravel()
    count = min(x.size, max(1, round(compression.fraction * x.size)))
    largest = np.argsort(-np.abs(x.ravel()), kind="stable")[:count]
    kept[largest] = x.ravel()[largest]
    return kept.reshape(x.shape)


@EACH
@pytest.mark.parametrize("num_workers", [K, 1])
def test_messages_and_residuals_are_those_of_a_plain_numpy_loop(compression, num_workers):
    residuals = no_residuals(compression, deltas_of(0, 1), 1).workers
    residuals = jax.tree.map(lambda r: jnp.repeat(r[0], num_workers, axis=0), residuals)
    kept = {name: np.zeros((num_workers, *shape)) for name, shape in SHAPES.items()}
    for seed in range(3):
        deltas = deltas_of(seed, num_workers)
        received, residuals = sent(compression, deltas, residuals)
        for name in SHAPES:
            for k in range(num_workers):
                whole = np.asarray(deltas[name][k], np.float64) + kept[name][k]
                message = numpy_received(compression, whole)
                np.testing.assert_allclose(received[name][k], message, atol=1e-6)
                kept[name][k] = whole - message
        assert_trees_close(residuals, kept)


@EACH
def test_what_was_sent_and_what_is_left_are_all_deltas_so_far(compression):
    residuals = jax.tree.map(jnp.zeros_like, deltas_of(0))
    total, all_sent = residuals, residuals
    for seed in range(5):
        received, residuals = sent(compression, deltas_of(seed), residuals)
        total, all_sent = (
            jax.tree.map(jnp.add, *pair)
            for pair in ((total, deltas_of(seed)), (all_sent, received))
        )
    assert_trees_close(jax.tree.map(jnp.add, all_sent, residuals), total)
    # An Int8 entry is off by half a step at most; TopK leaves whole entries behind.
    bound = 0.6 / 127 if isinstance(compression, Int8) else 10
    largest = max(float(jnp.max(jnp.abs(d))) for d in jax.tree.leaves(deltas_of(4)) if d.size)
    assert 0 < max(np.abs(r).max(initial=0) for r in jax.tree.leaves(residuals)) < bound * largest


@EACH
def test_nothing_is_sent_of_a_tensor_of_zeros(compression):
    zeros = jax.tree.map(jnp.zeros_like, deltas_of(0))
    assert_trees_equal(sent(compression, zeros, zeros), (zeros, zeros))


def test_entries_too_small_for_a_scale_wait_for_others():
    tiny = {"a": jnp.full((1, 2), 1e-37, jnp.float32)}
    received, left = sent(Int8(), tiny, {"a": jnp.zeros((1, 2))})
    assert not np.any(received["a"])
    assert_trees_close(left, tiny, atol=0)


@EACH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_worker_that_diverged_is_seen_and_others_are_not_touched(compression, value):
    deltas, zeros = deltas_of(0), jax.tree.map(jnp.zeros_like, deltas_of(0))
    spoiled = {**deltas, "matrix": deltas["matrix"].at[1, 2, 3].set(value)}
    received, _ = sent(compression, spoiled, zeros)
    expected, _ = sent(compression, deltas, zeros)
    assert not np.isfinite(received["matrix"][1]).all()
    others = np.asarray([0, 2])
    np.testing.assert_array_equal(received["matrix"][others], expected["matrix"][others])
    np.testing.assert_array_equal(received["vector"], expected["vector"])


def test_without_error_feedback_nothing_is_kept():
    assert no_residuals(Int8(error_feedback=False), deltas_of(0), K) is None
    _, left = sent(Int8(error_feedback=False), deltas_of(0), None)
    assert left is None


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        *[(lambda x=x: TopK(x), ValueError, "fraction=") for x in (0, -0.1, 1.01, np.nan)],
        (lambda: TopK("half"), TypeError, "is not a number"),
        (lambda: Int8(error_feedback="no"), TypeError, "neither True nor False"),
        (lambda: family(compression=Int8), TypeError, "with its parentheses"),
        (lambda: family(compression="int8"), TypeError, "compression='int8' is none"),
        (lambda: family(SingleWorkerTaskFamily, compression=Int8()), ValueError, "one worker"),
    ],
)
def test_what_makes_no_sense_is_an_error(make, error, told):
    with pytest.raises(error, match=told):
        make()


def family(cls=LocalSGDTaskFamily, num_workers=K, **arguments):
    inner = single_task_to_family(SoftmaxRegression())
    return cls(inner, num_workers, H, **{"local_opt": local_sgd(RATE), **arguments})


@functools.partial(jax.jit, static_argnums=0)
def one_round(task, params, state, batches):
    return jax.value_and_grad(task.loss_with_state, has_aux=True)(params, state, KEY, batches)


@EACH
@pytest.mark.parametrize("num_workers", [K, 1])
def test_rounds_are_those_of_a_plain_numpy_loop(compression, num_workers):
    """The mean of Int8 is a message too, with a residual of its own."""
    task = family(num_workers=num_workers, compression=compression).task_fn(0)
    params, state = task.init_with_state(KEY)
    own = [{n: np.zeros(p.shape) for n, p in params.items()} for _ in range(num_workers)]
    of_mean = own[0]
    for seed in range(2):
        batches = softmax_batches((num_workers, H), 7, seed)
        (_, state), delta = one_round(task, params, state, batches)
        messages = []
        for k in range(num_workers):
            ends, _ = numpy_worker(params, batches, k, H, RATE)
            whole = {n: np.asarray(params[n]) - ends[n] + own[k][n] for n in params}
            messages.append({n: numpy_received(compression, x) for n, x in whole.items()})
            own[k] = {n: whole[n] - messages[k][n] for n in params}
        mean = {n: np.mean([m[n] for m in messages], axis=0) for n in params}
        if isinstance(compression, Int8):
            whole = {n: mean[n] + of_mean[n] for n in params}
            mean = {n: numpy_received(compression, x) for n, x in whole.items()}
            of_mean = {n: whole[n] - mean[n] for n in params}
        assert_trees_close(delta, mean)
        params = jax.tree.map(jnp.subtract, params, delta)
    expected = {n: np.stack([kept[n] for kept in own]) for n in params}
    assert_trees_close(state.residuals.workers, expected)
    if isinstance(compression, Int8):
        assert_trees_close(state.residuals.mean, {n: x[None] for n, x in of_mean.items()})
    else:
        assert state.residuals.mean is None


@EACH
def test_a_rule_sees_the_deltas_and_squares_that_were_received(compression):
    task = family(compression=compression, worker_deltas=True, worker_squares=True).task_fn(0)
    params, state = task.init_with_state(KEY)
    assert state.residuals.mean is None
    (_, state), delta = one_round(task, params, state, softmax_batches((K, H), 7))
    batches = softmax_batches((K, H), 7)
    whole = {
        n: [params[n] - numpy_worker(params, batches, k, H, RATE)[0][n] for k in range(K)]
        for n in params
    }
    expected = {
        n: np.stack([numpy_received(compression, x) for x in each]) for n, each in whole.items()
    }
    assert_trees_close(state.worker_deltas, expected)
    assert_trees_close(delta, {n: d.mean(0) for n, d in expected.items()})
    assert_trees_close(state.worker_squares, {n: (d**2).mean(0) for n, d in expected.items()})


@pytest.mark.parametrize("weights", [[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
def test_absent_workers_keep_their_residuals_and_with_nobody_there_nothing_moves(weights):
    params = SoftmaxRegression().init(KEY)
    before = Residuals(
        {n: jnp.full((K, *p.shape), 0.01) for n, p in params.items()},
        {n: jnp.full((1, *p.shape), 0.02) for n, p in params.items()},
    )
    out = local_round(
        SoftmaxRegression(), params, None, KEY, softmax_batches((K, H), 7), local_sgd(RATE), K, H,
        jnp.asarray(weights), compression=Int8(), residuals=before,
    )  # fmt: skip
    for k, weight in enumerate(weights):
        kept, was = (jax.tree.map(lambda r, k=k: r[k], r.workers) for r in (out.residuals, before))
        same = jax.tree.map(lambda a, b: bool((a == b).all()), kept, was)
        assert all(same.values()) == (weight == 0)
    if not any(weights):
        assert_trees_equal(out.residuals, before)
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(out.delta))


def test_residuals_are_stored_between_rounds_and_not_evaluated():
    task = family(compression=TopK(0.3)).task_fn(0)
    params, state = task.init_with_state(KEY)
    _, same, _ = task.loss_with_state_and_aux(params, state, KEY, softmax_batches((K, H), 7))
    assert_trees_equal(same, state)
    carried = state._replace(worker_deltas=params)
    assert between_rounds(carried) == RoundState(None, residuals=state.residuals)


def test_data_parallel_workers_compress_their_gradients():
    task = family(DataParallelTaskFamily, compression=TopK(0.3)).task_fn(0)
    params, state = task.init_with_state(KEY)
    batches = softmax_batches((K, H), 7)
    (_, state), gradient = one_round(task, params, state, batches)
    expected = {n: 0 for n in params}
    for k in range(K):
        steps = [softmax_loss_and_gradient(params, pick(batches, k, h))[1] for h in range(H)]
        for n in params:
            mean = np.mean([step[n] for step in steps], axis=0)
            expected[n] = expected[n] + numpy_received(TopK(0.3), mean) / K
    assert_trees_close(gradient, expected)
    assert isinstance(state.residuals, Residuals)


def problem(compression, task_family=None, num_rounds=4):
    small = comm_lopt.digits_datasets(batch_size=4)
    return Problem(
        task_family or comm_lopt.digits_mlp((4,), small), 4, 2, num_rounds, compression=compression
    )


def test_bytes_are_those_of_the_messages():
    tensors, weights = 4, 64 * 4 + 4 + 4 * 10 + 10
    entries = sum(max(1, round(n / 10)) for n in (64 * 4, 4, 4 * 10, 10))
    message, mean = weights + 4 * tensors, comm_lopt.hand_designed("SlowMo")
    assert bytes_per_round(mean, problem(Int8())) == (message, message)
    assert bytes_per_round(mean, problem(TopK(0.1))) == (8 * entries, 4 * 8 * entries)
    for rule, received in (
        (comm_lopt.LAggR(hidden_size=2), message + 4 * weights),
        (comm_lopt.LAggA(4, hidden_size=2), 4 * message),
    ):
        method = comm_lopt.learned(rule, None)
        assert bytes_per_round(method, problem(Int8())) == (message, received)
        assert bytes_per_round(method, problem(TopK(0.1))) == (8 * entries, 4 * 8 * entries)


def test_problems_that_differ_in_what_is_sent_are_not_equal():
    told = [problem(c).describe() for c in (None, Int8(), TopK(0.1), TopK(0.2))]
    line = "compression: TopK(fraction=0.1) there, TopK(fraction=0.2) here"
    assert differences(told[2], told[3]) == [line]
    older = {name: value for name, value in told[0].items() if name != "compression"}
    assert differences(older, told[0]) == []
    line = "compression: None there, Int8(error_feedback=True) here"
    assert differences(older, told[1]) == [line]


def test_gin_chooses_what_is_sent():
    comm_lopt.load_config(
        ["tasks/digits_mlp.gin"], ["compression = @TopK()", "TopK.fraction = 0.25"]
    )
    assert comm_lopt.meta_test.meta_test_problem().compression == TopK(0.25)
    assert gin.query_parameter("LocalSGDTaskFamily.compression") is not None
    assert comm_lopt.LocalSGDTaskFamily().compression == TopK(0.25)


# Furthest from the uncompressed loss in 30 rounds, and at their end; see docs/real_runs.md.
DISTANCES = {Int8(): (2e-3, 1e-3), TopK(0.1): (0.1, 0.03)}


def test_training_stays_near_the_uncompressed_run_on_fashion_mnist(
    real_fashion_mnist, ordinary_promotion
):
    datasets = comm_lopt.fashion_mnist_datasets(16, 8, folder=str(real_fashion_mnist))
    task_family = comm_lopt.fashion_mnist_mlp8(datasets=datasets)
    method = comm_lopt.hand_designed("LocalSGD", local_learning_rate=0.3)
    curves = {}
    for compression in (None, *DISTANCES):
        this = problem(compression, task_family, 30)
        ours, opt = method.build(this, {})
        _, batches = next(chunks_of_rounds([this.rounds().reseeded(0)], [30]))
        carry = start_run(ours, opt, 30, KEY)
        rounds = jax.tree.map(lambda leaf: leaf[0], batches)
        run = jax.jit(lambda carry, rounds, o=ours, p=opt: advance_run(o, p, KEY, carry, 0, rounds))
        curves[compression] = np.asarray(run(carry, rounds)[1])
    for compression, (furthest, at_end) in DISTANCES.items():
        away = np.abs(curves[compression] / curves[None] - 1)
        assert 0 < away.max() < furthest
        assert away[-5:].mean() < at_end
