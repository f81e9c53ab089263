"""Whole training runs, against plain Python loops of rounds."""

import dataclasses
import itertools
import time
import types
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_rules import AlongRoots
from small_tasks import SoftmaxRegression, assert_trees_equal, host_datasets, softmax_batches

import comm_lopt
from comm_lopt.data.sources.digits import digits_datasets
from comm_lopt.meta_test import evaluation, runs
from comm_lopt.meta_test.problem import Problem
from comm_lopt.meta_test.runs import BytesPerRound, bytes_per_round, run
from comm_lopt.methods import hand_designed, learned
from comm_lopt.optimizers.learned.lagg import LAggA
from comm_lopt.optimizers.learned.lopt import LOptA
from comm_lopt.tasks.digits import digits_mlp
from comm_lopt.upstream import SGD, single_task_to_family

K, H, B, T = 2, 2, 16, 6

# Optax's Adam fails under strict promotion.
pytestmark = pytest.mark.usefixtures("ordinary_promotion")


def make_problem(num_rounds=T, **changes):
    family = digits_mlp((8,), digits_datasets(batch_size=B))
    return Problem(family, K, H, num_rounds, **changes)


@pytest.fixture(scope="module")
def problem():
    return make_problem()


@pytest.fixture(scope="module")
def local_sgd_curves(problem):
    """By a clock that goes on by a second each time that it is looked at."""
    clock = types.SimpleNamespace(perf_counter=itertools.count().__next__)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runs, "time", clock)
        return run(problem, hand_designed("LocalSGD", local_learning_rate=0.5), seeds=(3, 7))


def plain_run(problem, seed, one_round):
    """Losses, and after each round those at the weights, held-out ones and accuracies."""
    task = problem.task_family.task_fn(0)
    params = task.init(jax.random.split(jax.random.PRNGKey(seed), 4)[1])
    batches = problem.task_family.datasets.train.reseeded(seed)
    key = jax.random.PRNGKey(0)  # The task's loss has no randomness.
    loss_and_grad = jax.jit(jax.value_and_grad(lambda p, batch: task.loss(p, key, batch)))
    heldout = problem.task_family.datasets.indices_of("test")
    train = problem.task_family.datasets.indices_of("train")
    losses, at_weights, heldout_losses, accuracies = [], [], [], []
    for _ in range(problem.num_rounds):
        round_batches = [[next(batches) for _ in range(H)] for _ in range(K)]
        loss, params = one_round(params, round_batches, loss_and_grad)
        losses.append(loss)
        at_weights.append(task.loss(params, key, train))
        heldout_loss, aux = task.loss_and_aux(params, key, heldout)
        heldout_losses.append(heldout_loss)
        accuracies.append(aux["accuracy"])
    return losses, at_weights, heldout_losses, accuracies


def averaging_round(params, round_batches, loss_and_grad):
    losses, finals = [], []
    for worker_batches in round_batches:
        weights = params
        for batch in worker_batches:
            loss, grad = loss_and_grad(weights, batch)
            losses.append(float(loss))
            weights = jax.tree.map(lambda w, g: w - 0.5 * g, weights, grad)
        finals.append(weights)
    return np.mean(losses), jax.tree.map(lambda *w: sum(w) / len(w), *finals)


def union_round(params, round_batches, loss_and_grad):
    loss, grad = loss_and_grad(params, np.concatenate(sum(round_batches, [])))
    return float(loss), jax.tree.map(lambda w, g: w - 0.2 * g, params, grad)


def test_local_sgd_curves_are_those_of_a_plain_loop(problem, local_sgd_curves):
    curves = local_sgd_curves
    assert curves.train_loss.shape == (1, 2, T)
    np.testing.assert_array_equal(curves.evaluated_rounds, np.arange(1, T + 1))
    for s, seed in enumerate((3, 7)):
        losses, at_weights, heldout_losses, accuracies = plain_run(problem, seed, averaging_round)
        np.testing.assert_allclose(curves.train_loss[0, s], losses, rtol=1e-5)
        # Digits have fewer training examples than are looked at, so these are all of them.
        np.testing.assert_allclose(curves.loss_at_weights[0, s], at_weights, rtol=1e-5)
        np.testing.assert_allclose(curves.heldout_loss[0, s], heldout_losses, rtol=1e-5)
        np.testing.assert_allclose(curves.heldout_metrics["accuracy"][0, s], accuracies, rtol=1e-6)
    assert not curves.diverged.any()


def test_heldout_mean_weights_a_last_batch_that_is_smaller_by_its_size(
    problem, local_sgd_curves, monkeypatch
):
    monkeypatch.setattr(evaluation, "_LARGEST_BATCH", 100)  # The split has 180.
    curves = run(problem, hand_designed("LocalSGD", local_learning_rate=0.5), seeds=(3,))
    expected = local_sgd_curves
    np.testing.assert_allclose(curves.heldout_loss[0, 0], expected.heldout_loss[0, 0], rtol=1e-5)
    accuracies = (one.heldout_metrics["accuracy"][0, 0] for one in (curves, expected))
    np.testing.assert_allclose(*accuracies, rtol=1e-6)


def test_data_parallel_curves_are_those_of_a_plain_loop(problem):
    curves = run(problem, hand_designed("DataParallelSGD", learning_rate=0.2), seeds=(3,))
    losses, at_weights, heldout_losses, _ = plain_run(problem, 3, union_round)
    np.testing.assert_allclose(curves.train_loss[0, 0], losses, rtol=1e-5)
    np.testing.assert_allclose(curves.loss_at_weights[0, 0], at_weights, rtol=1e-5)
    np.testing.assert_allclose(curves.heldout_loss[0, 0], heldout_losses, rtol=1e-5)


def test_same_seed_gives_the_same_bits_and_other_seeds_other_curves(problem, local_sgd_curves):
    curves = local_sgd_curves
    again = run(problem, hand_designed("LocalSGD", local_learning_rate=0.5), seeds=(3, 7))
    np.testing.assert_array_equal(again.train_loss, curves.train_loss)
    np.testing.assert_array_equal(again.heldout_loss, curves.heldout_loss)
    assert not np.any(curves.train_loss[0, 0] == curves.train_loss[0, 1])


@pytest.fixture(scope="module")
def grid_curves(problem):
    grid = [
        {"local_learning_rate": 0.5, "slow_learning_rate": 1.0, "momentum": 0.0},
        {"local_learning_rate": 0.1, "slow_learning_rate": 0.5, "momentum": 0.8},
        {"local_learning_rate": 0.3, "slow_learning_rate": 1.0, "momentum": 0.5},
    ]
    return grid, run(problem, hand_designed("SlowMo"), (3, 7), grid)


def test_grid_points_are_single_runs(problem, grid_curves, local_sgd_curves):
    grid, curves = grid_curves
    assert curves.train_loss.shape == (3, 2, T)
    # SlowMo's first point is Local SGD.
    np.testing.assert_allclose(curves.train_loss[0], local_sgd_curves.train_loss[0], rtol=1e-5)
    single = run(problem, hand_designed("SlowMo", **grid[1]), (3, 7))
    np.testing.assert_allclose(curves.train_loss[1], single.train_loss[0], rtol=1e-5)
    np.testing.assert_allclose(curves.heldout_loss[1], single.heldout_loss[0], rtol=1e-5)
    assert not np.allclose(curves.train_loss[0], curves.train_loss[1], rtol=1e-2)


def test_grid_in_parts_gives_the_same_numbers(problem, grid_curves):
    grid, curves = grid_curves
    parts = run(problem, hand_designed("SlowMo"), (3, 7), grid, grid_batch_size=2)
    np.testing.assert_allclose(parts.train_loss, curves.train_loss, rtol=1e-5)
    np.testing.assert_allclose(parts.heldout_loss, curves.heldout_loss, rtol=1e-5)


class NoisyRegression(SoftmaxRegression):
    """Adds a draw to the loss, so that curves tell which key each round got."""

    def loss_and_aux(self, params, key, data):
        loss, aux = super().loss_and_aux(params, key, data)
        return loss + jax.random.uniform(key), aux


def host_problem(num_rounds=42):
    task = NoisyRegression()
    task.datasets = host_datasets(lambda split, i: softmax_batches((), 4, seed=1000 * split + i))
    return Problem(single_task_to_family(task), K, H, num_rounds)


def test_streamed_data_in_chunks_gives_the_curves_of_one_chunk(monkeypatch):
    method = hand_designed("LocalSGD", local_learning_rate=0.5)
    whole = run(host_problem(), method, seeds=(3, 7))
    chunks = []
    original = runs.chunks_of_rounds

    def recorded(*arguments):
        for first_round, batches in original(*arguments):
            chunks.append((first_round, batches["x"].shape[:2]))
            yield first_round, batches

    monkeypatch.setattr(runs, "chunks_of_rounds", recorded)
    monkeypatch.setattr(runs, "_MAX_CHUNK_BYTES", 1500)
    parts = run(host_problem(), method, seeds=(3, 7))
    # T = 42 has an evaluation every 2 rounds, and 2 rounds of both seeds are too much at once.
    assert chunks == [(first, (2, 1)) for first in range(42)]
    np.testing.assert_array_equal(parts.evaluated_rounds, np.arange(2, 43, 2))
    np.testing.assert_array_equal(parts.evaluated_rounds, whole.evaluated_rounds)
    np.testing.assert_allclose(parts.train_loss, whole.train_loss, rtol=1e-6)
    np.testing.assert_allclose(parts.heldout_loss, whole.heldout_loss, rtol=1e-6)
    assert set(whole.heldout_metrics) == {"mean_logit"}


@pytest.mark.parametrize("num_rounds", [1, 7, 20, 21, 40, 97, 199, 997, 1000, 1009])
def test_about_twenty_evaluations_whatever_the_number_of_rounds(num_rounds):
    rounds = runs._evaluated_rounds(num_rounds, "spread")
    assert rounds[-1] == num_rounds
    assert min(num_rounds, 14) <= len(rounds) <= 30
    assert len(set(np.diff([0, *rounds[:-1]]))) <= 1
    assert rounds[-1] - ([0, *rounds][-2]) <= rounds[0]
    assert runs._evaluated_rounds(num_rounds, "end") == [num_rounds]


def test_rounds_that_are_no_multiple_of_the_segment_are_run_to_the_end():
    method = hand_designed("LocalSGD", local_learning_rate=0.5)
    curves = run(make_problem(31), method, (3,))
    np.testing.assert_array_equal(curves.evaluated_rounds, [*range(2, 31, 2), 31])
    assert curves.train_loss.shape == (1, 1, 31) and curves.heldout_loss.shape == (1, 1, 16)
    at_end = run(make_problem(31), method, (3,), evaluations="end")
    np.testing.assert_array_equal(at_end.evaluated_rounds, [31])
    np.testing.assert_allclose(at_end.train_loss, curves.train_loss, rtol=1e-5)
    np.testing.assert_allclose(
        at_end.heldout_loss[..., -1], curves.heldout_loss[..., -1], rtol=1e-4
    )


def test_every_held_out_example_counts_once_whatever_the_batches(
    monkeypatch, problem, local_sgd_curves
):
    # 360 held-out examples: three batches of 100 and one of 60.
    monkeypatch.setattr(evaluation, "_LARGEST_BATCH", 100)
    curves = run(make_problem(), hand_designed("LocalSGD", local_learning_rate=0.5), (3, 7))
    np.testing.assert_allclose(curves.heldout_loss, local_sgd_curves.heldout_loss, rtol=1e-5)
    np.testing.assert_allclose(curves.loss_at_weights, local_sgd_curves.loss_at_weights, rtol=1e-5)


def test_methods_are_evaluated_on_the_same_examples_even_of_an_iterator():
    problem = host_problem(1)
    # Nothing is learned that the two could differ in, but for the data they are evaluated on.
    still = hand_designed("LocalSGD", local_learning_rate=0.0)
    first, second = (run(problem, still, (3,)) for _ in range(2))
    np.testing.assert_array_equal(first.heldout_loss, second.heldout_loss)
    np.testing.assert_array_equal(first.loss_at_weights, second.loss_at_weights)


class SlowlyEvaluated(SoftmaxRegression):
    """Training is fast, and each batch of an evaluation takes 50 ms."""

    def loss_with_state_and_aux(self, params, state, key, data):
        loss, aux = self.loss_and_aux(params, key, data)

        def wait(x):
            time.sleep(0.05)
            return x

        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(wait, shape, loss, vmap_method="sequential"), state, aux


def test_time_of_a_round_has_no_evaluation_in_it():
    task = SlowlyEvaluated()
    task.datasets = host_datasets(lambda split, i: softmax_batches((), 4, seed=1000 * split + i))
    problem = Problem(single_task_to_family(task), K, H, 4)
    curves = run(problem, hand_designed("LocalSGD", local_learning_rate=0.5), (3,))
    # 4 evaluations of 16 batches take 3.2 s.
    assert 0 < curves.seconds_per_round * curves.train_loss.size < 1.0


def test_diverged_run_is_flagged_and_does_not_disturb_the_others(problem, local_sgd_curves):
    grid = [{"local_learning_rate": 0.5}, {"local_learning_rate": 1e30}]
    curves = run(problem, hand_designed("LocalSGD"), (3, 7), grid)
    np.testing.assert_array_equal(curves.diverged, [[False, False], [True, True]])
    np.testing.assert_allclose(curves.train_loss[0], local_sgd_curves.train_loss[0], rtol=1e-5)


def test_final_loss_is_the_mean_of_the_last_twentieth_of_the_rounds():
    train_loss = np.arange(2 * 3 * 40, dtype=np.float64).reshape(2, 3, 40)
    curves = runs.Curves(train_loss, np.ones(1), *[np.ones((2, 3, 1))] * 2, {}, 0.0, None)
    np.testing.assert_array_equal(curves.final_train_loss, train_loss[..., -2:].mean(-1))


@pytest.mark.parametrize("where", [0, 1])
def test_evaluation_that_is_not_finite_is_divergence_too(where):
    evaluated = [np.ones((1, 2, 3)), np.ones((1, 2, 3))]
    evaluated[where][0, 1, 0] = np.nan
    curves = runs.Curves(np.ones((1, 2, 4)), np.ones(3), *evaluated, {}, 0.0, None)
    np.testing.assert_array_equal(curves.diverged, [[False, True]])


def test_learned_aggregator_runs_with_worker_deltas(problem):
    learned_opt = LAggA(num_workers=K, step_multiplier=0.1)
    theta = learned_opt.init(jax.random.PRNGKey(0))
    curves = run(problem, learned(learned_opt, theta, local_learning_rate=0.1), (3,))
    assert np.isfinite(curves.train_loss).all()
    assert curves.train_loss[0, 0, 0] != curves.train_loss[0, 0, 1]


def test_local_learning_rate_of_a_learned_method_is_the_one_it_was_given(problem):
    """With a step of nothing, the first round's loss tells the local learning rate."""
    learned_opt = LOptA(step_multiplier=1e-30)
    theta = learned_opt.init(jax.random.PRNGKey(0))
    method = learned(learned_opt, theta, local_learning_rate=0.5)
    first = run(problem, method, (3,)).train_loss[0, 0, 0]
    losses, *_ = plain_run(make_problem(1), 3, averaging_round)
    np.testing.assert_allclose(first, losses[0], rtol=1e-5)


class WithState(SoftmaxRegression):
    """Has a model state of 12 bytes of floats and a count."""

    def init_with_state(self, key):
        return self.init(key), {"mean": jnp.zeros(3), "count": jnp.zeros((), jnp.int32)}


def test_bytes_are_counted_both_ways():
    task = WithState()
    task.datasets = host_datasets(lambda split, i: softmax_batches((), 4))
    problem = Problem(single_task_to_family(task), 8, 4, T)
    params, state = 4 * (5 * 3 + 3), 12
    laggs = LAggA(num_workers=8)
    aggregator = learned(laggs, laggs.init(jax.random.PRNGKey(0)))
    one_way = params + state
    assert bytes_per_round(hand_designed("LocalSGD"), problem) == (one_way, one_way)
    assert bytes_per_round(hand_designed("DataParallelSGD"), problem) == (one_way, one_way)
    assert bytes_per_round(aggregator, problem) == (one_way, 8 * params + state)
    with_squares = learned(AlongRoots(), AlongRoots().init(jax.random.PRNGKey(0)))
    assert bytes_per_round(with_squares, problem) == (2 * params + state, 2 * params + state)
    # One worker spread over eight machines exchanges gradients in each of its 4 local steps.
    assert bytes_per_round(hand_designed("DiLoCoK1"), problem) == (4 * one_way, 4 * one_way)


def test_run_tells_its_bytes_and_its_time(local_sgd_curves):
    size = 4 * (64 * 8 + 8 + 8 * 10 + 10)
    assert local_sgd_curves.bytes_per_round == BytesPerRound(sent=size, received=size)
    # An evaluation, and so a chunk, in each of the 6 rounds; two seeds.
    assert local_sgd_curves.seconds_per_round == T / (2 * T)


def test_numpy_seeds_and_grids_are_numbers_like_others(problem, local_sgd_curves):
    grid = [{"local_learning_rate": rate} for rate in np.asarray([0.5, 0.1])]
    curves = run(problem, hand_designed("LocalSGD"), np.asarray([3, 7]), grid)
    np.testing.assert_allclose(curves.train_loss[0], local_sgd_curves.train_loss[0], rtol=1e-5)


def test_states_of_local_adamw_last_from_round_to_round_and_one_worker_sees_all_examples(problem):
    values = {"local_learning_rate": 0.01, "learning_rate": 0.7, "momentum": 0.9}
    losses = [
        run(problem, hand_designed(name, **values), (3,)).train_loss[0, 0]
        for name in ("DiLoCo", "DiLoCoK1")
    ]
    assert np.isfinite(losses).all() and np.all(losses[0] != losses[1])


def test_data_parallel_methods_run_on_sampled_tasks(small_data_folder, monkeypatch):
    monkeypatch.setenv("COMM_LOPT_DATA", str(small_data_folder))
    bindings = [
        "num_rounds = 2", "num_workers = 2", "sampled_mlp.widths = (4, 8)",
        "digits_datasets.batch_size = 4", "fashion_mnist_datasets.batch_size = 4",
    ]  # fmt: skip
    try:
        comm_lopt.load_config(["tasks/sampled_mlp.gin"], bindings)
        problem = comm_lopt.meta_test.meta_test_problem()
        for name in ("DataParallelSGD", "LocalSGD"):
            assert not run(problem, hand_designed(name), (3,), evaluations="end").diverged.any()
    finally:
        comm_lopt.load_config([])


@pytest.mark.parametrize(("seeds", "grid"), [((), ({},)), ((1,), ())])
def test_no_seeds_or_no_grid_points_is_an_error(problem, seeds, grid):
    with pytest.raises(ValueError, match="at least one of each"):
        run(problem, hand_designed("LocalSGD"), seeds, grid)


def test_run_leaves_the_data_of_the_problem_where_they_were(problem):
    run(problem, hand_designed("LocalSGD"), (0,))
    train = problem.task_family.datasets.train
    assert train.state == 0
    np.testing.assert_array_equal(next(train), train.batches(0, 1)[0])


def test_clipping_reaches_the_local_steps_and_the_data_parallel_ones():
    for name, clip in (("LocalSGD", "local_clip_norm"), ("DataParallelSGD", "clip_norm")):
        curves = run(make_problem(2), hand_designed(name, **{clip: 1e-6}), (3,))
        assert np.ptp(curves.heldout_loss[0, 0]) < 1e-5


@pytest.mark.parametrize("name", ["num_workers", "num_local_steps", "num_rounds"])
def test_problem_without_workers_steps_or_rounds_is_an_error(problem, name):
    arguments = {"num_workers": K, "num_local_steps": H, "num_rounds": T, name: 0}
    with pytest.raises(ValueError, match=f"{name}=0: .* at least 1"):
        Problem(problem.task_family, **arguments)


def test_problem_without_data_is_an_error():
    family = single_task_to_family(SoftmaxRegression())
    with pytest.raises(ValueError, match="has datasets=None"):
        Problem(family, K, H, T)


def test_values_of_a_grid_override_those_of_the_method(problem):
    family, opt = hand_designed("SlowMo", momentum=0.0).build(problem, {"slow_learning_rate": 0.25})
    state = opt.update(opt.init(jnp.ones(2)), jnp.ones(2))
    assert_trees_equal(opt.get_params(state), jnp.full(2, 0.75))
    assert (family.num_workers, family.num_local_steps) == (K, H)


def test_weights_are_evaluated_on_the_split_that_was_asked_for():
    (stack,) = (problem := make_problem(heldout_split="outer_valid")).heldout_part.stacks
    expected = problem.task_family.datasets.indices_of("outer_valid")
    np.testing.assert_array_equal(np.ravel(stack), expected)


class Asking(SGD):
    """Notes what it is given."""

    given: ClassVar[dict] = {}

    def init(self, params, model_state=None, num_steps=None, key=None, **kwargs):
        self.given["init"] = (num_steps, key.shape)
        return super().init(params, model_state, num_steps=num_steps, key=key)

    def update(self, opt_state, grad, loss=None, model_state=None, key=None, **kwargs):
        self.given["update"] = (loss.shape, key.shape)
        return super().update(opt_state, grad, loss=loss, model_state=model_state)


def test_optimizers_of_upstream_are_given_the_number_of_rounds_losses_and_keys():
    method = dataclasses.replace(hand_designed("LocalSGD"), make_rule=lambda: Asking(1.0))
    run(host_problem(1), method, (3,), evaluations="end")
    assert Asking.given == {"init": (1, (2,)), "update": ((), (2,))}
