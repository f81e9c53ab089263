"""Whole training runs, against plain Python loops of rounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_tasks import SoftmaxRegression, assert_trees_equal, host_datasets, softmax_batches

from comm_lopt.data.digits import digits_datasets
from comm_lopt.meta_test import runs
from comm_lopt.meta_test.problem import Problem, baseline, learned
from comm_lopt.meta_test.runs import run
from comm_lopt.optimizers.lagg import LAggA
from comm_lopt.optimizers.lopt import LOptA
from comm_lopt.tasks.digits import digits_mlp
from comm_lopt.tasks.local_optimizers import local_sgd
from comm_lopt.upstream import single_task_to_family

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
    return run(problem, baseline("LocalSGD", local_learning_rate=0.5), seeds=(3, 7))


def plain_run(problem, seed, one_round):
    """Losses, and held-out losses and accuracies after each round, in a plain loop."""
    task = problem.task_family.task_fn(0)
    params = task.init(jax.random.split(jax.random.PRNGKey(seed), 4)[1])
    batches = problem.task_family.datasets.train.reseeded(seed)
    key = jax.random.PRNGKey(0)  # The task's loss has no randomness.
    loss_and_grad = jax.jit(jax.value_and_grad(lambda p, batch: task.loss(p, key, batch)))
    heldout = problem.task_family.datasets.indices_of("test")
    losses, heldout_losses, accuracies = [], [], []
    for _ in range(problem.num_rounds):
        round_batches = [[next(batches) for _ in range(H)] for _ in range(K)]
        loss, params = one_round(params, round_batches, loss_and_grad)
        losses.append(loss)
        heldout_loss, aux = task.loss_and_aux(params, key, heldout)
        heldout_losses.append(heldout_loss)
        accuracies.append(aux["accuracy"])
    return losses, heldout_losses, accuracies


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
    np.testing.assert_array_equal(curves.heldout_rounds, np.arange(1, T + 1))
    for s, seed in enumerate((3, 7)):
        losses, heldout_losses, accuracies = plain_run(problem, seed, averaging_round)
        np.testing.assert_allclose(curves.train_loss[0, s], losses, rtol=1e-5)
        np.testing.assert_allclose(curves.heldout_loss[0, s], heldout_losses, rtol=1e-5)
        np.testing.assert_allclose(curves.heldout_metrics["accuracy"][0, s], accuracies, rtol=1e-6)
    assert not curves.diverged.any()


def test_heldout_mean_weights_a_last_batch_that_is_smaller_by_its_size(
    problem, local_sgd_curves, monkeypatch
):
    monkeypatch.setattr(runs, "_HELDOUT_BATCH", 100)  # The split has 180.
    curves = run(problem, baseline("LocalSGD", local_learning_rate=0.5), seeds=(3,))
    expected = local_sgd_curves
    np.testing.assert_allclose(curves.heldout_loss[0, 0], expected.heldout_loss[0, 0], rtol=1e-5)
    accuracies = (one.heldout_metrics["accuracy"][0, 0] for one in (curves, expected))
    np.testing.assert_allclose(*accuracies, rtol=1e-6)


def test_data_parallel_curves_are_those_of_a_plain_loop(problem):
    curves = run(problem, baseline("DataParallelSGD", learning_rate=0.2), seeds=(3,))
    losses, heldout_losses, _ = plain_run(problem, 3, union_round)
    np.testing.assert_allclose(curves.train_loss[0, 0], losses, rtol=1e-5)
    np.testing.assert_allclose(curves.heldout_loss[0, 0], heldout_losses, rtol=1e-5)


def test_same_seed_gives_the_same_bits_and_other_seeds_other_curves(problem, local_sgd_curves):
    curves = local_sgd_curves
    again = run(problem, baseline("LocalSGD", local_learning_rate=0.5), seeds=(3, 7))
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
    return grid, run(problem, baseline("SlowMo"), (3, 7), grid)


def test_grid_points_are_single_runs(problem, grid_curves, local_sgd_curves):
    grid, curves = grid_curves
    assert curves.train_loss.shape == (3, 2, T)
    # SlowMo's first point is Local SGD.
    np.testing.assert_allclose(curves.train_loss[0], local_sgd_curves.train_loss[0], rtol=1e-5)
    single = run(problem, baseline("SlowMo", **grid[1]), (3, 7))
    np.testing.assert_allclose(curves.train_loss[1], single.train_loss[0], rtol=1e-5)
    np.testing.assert_allclose(curves.heldout_loss[1], single.heldout_loss[0], rtol=1e-5)
    assert not np.allclose(curves.train_loss[0], curves.train_loss[1], rtol=1e-2)


def test_grid_in_parts_gives_the_same_numbers(problem, grid_curves):
    grid, curves = grid_curves
    parts = run(problem, baseline("SlowMo"), (3, 7), grid, grid_batch_size=2)
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
    candidate = baseline("LocalSGD", local_learning_rate=0.5)
    whole = run(host_problem(), candidate, seeds=(3, 7))
    chunks = []
    original = runs._chunks

    def recorded(*arguments):
        for first_round, batches in original(*arguments):
            chunks.append((first_round, batches["x"].shape[:2]))
            yield first_round, batches

    monkeypatch.setattr(runs, "_chunks", recorded)
    monkeypatch.setattr(runs, "_MAX_CHUNK_BYTES", 1500)
    parts = run(host_problem(), candidate, seeds=(3, 7))
    # T = 42 has an evaluation every 3 rounds, and 3 rounds of both seeds are too much at once.
    assert chunks == [(first, (2, 1)) for first in range(42)]
    np.testing.assert_array_equal(parts.heldout_rounds, np.arange(3, 43, 3))
    np.testing.assert_array_equal(parts.heldout_rounds, whole.heldout_rounds)
    np.testing.assert_allclose(parts.train_loss, whole.train_loss, rtol=1e-6)
    np.testing.assert_allclose(parts.heldout_loss, whole.heldout_loss, rtol=1e-6)
    assert set(whole.heldout_metrics) == {"mean_logit"}


def test_evaluations_are_at_most_twenty_and_end_with_the_last_round():
    for num_rounds in (1, 7, 20, 21, 40, 1000, 997):
        segment = runs._rounds_between_evaluations(num_rounds)
        assert num_rounds % segment == 0
        assert num_rounds // segment <= 20
    assert runs._rounds_between_evaluations(1000) == 50


def test_diverged_run_is_flagged_and_does_not_disturb_the_others(problem, local_sgd_curves):
    grid = [{"local_learning_rate": 0.5}, {"local_learning_rate": 1e30}]
    curves = run(problem, baseline("LocalSGD"), (3, 7), grid)
    np.testing.assert_array_equal(curves.diverged, [[False, False], [True, True]])
    np.testing.assert_allclose(curves.train_loss[0], local_sgd_curves.train_loss[0], rtol=1e-5)


def test_final_loss_is_the_mean_of_the_last_twentieth_of_the_rounds():
    train_loss = np.arange(2 * 3 * 40, dtype=np.float64).reshape(2, 3, 40)
    curves = runs.Curves(train_loss, np.ones(1), np.ones((2, 3, 1)), None, 0.0, 0)
    np.testing.assert_array_equal(curves.final_train_loss, train_loss[..., -2:].mean(-1))


def test_heldout_loss_that_is_not_finite_is_divergence_too():
    heldout = np.ones((1, 2, 3))
    heldout[0, 1, 0] = np.nan
    curves = runs.Curves(np.ones((1, 2, 4)), np.ones(3), heldout, None, 0.0, 0)
    np.testing.assert_array_equal(curves.diverged, [[False, True]])


def test_learned_aggregator_runs_with_worker_deltas(problem):
    learned_opt = LAggA(num_workers=K, step_multiplier=0.1)
    theta = learned_opt.init(jax.random.PRNGKey(0))
    curves = run(problem, learned(learned_opt, theta, 0.1), (3,))
    assert np.isfinite(curves.train_loss).all()
    assert curves.train_loss[0, 0, 0] != curves.train_loss[0, 0, 1]


def test_local_learning_rate_of_a_learned_candidate_is_the_one_it_was_given(problem):
    """With a step of nothing, the first round's loss tells the local learning rate."""
    learned_opt = LOptA(step_multiplier=1e-30)
    candidate = learned(learned_opt, learned_opt.init(jax.random.PRNGKey(0)), 0.5)
    first = run(problem, candidate, (3,)).train_loss[0, 0, 0]
    losses, _, _ = plain_run(make_problem(1), 3, averaging_round)
    np.testing.assert_allclose(first, losses[0], rtol=1e-5)


def test_candidate_of_another_number_of_workers_is_an_error(problem):
    learned_opt = LAggA(num_workers=8)
    candidate = learned(learned_opt, learned_opt.init(jax.random.PRNGKey(0)), 0.1)
    with pytest.raises(ValueError, match=r"LAggA was built for num_workers=8 .* num_workers=2"):
        run(problem, candidate, (0,))


def test_bytes_are_those_of_the_parameters(local_sgd_curves):
    assert local_sgd_curves.bytes_per_round_per_worker == 4 * (64 * 8 + 8 + 8 * 10 + 10)
    assert local_sgd_curves.seconds_per_round > 0


@pytest.mark.parametrize(("seeds", "grid"), [((), ({},)), ((1,), ())])
def test_no_seeds_or_no_grid_points_is_an_error(problem, seeds, grid):
    with pytest.raises(ValueError, match="at least one of each"):
        run(problem, baseline("LocalSGD"), seeds, grid)


def test_run_leaves_the_data_of_the_problem_where_they_were(problem):
    run(problem, baseline("LocalSGD"), (0,))
    train = problem.task_family.datasets.train
    assert train.state == 0
    np.testing.assert_array_equal(next(train), train.batches(0, 1)[0])


def test_local_optimizer_of_the_problem_is_used():
    def clipped(learning_rate):
        return local_sgd(learning_rate, clip_norm=1e-6)

    curves = run(make_problem(2, local_opt=clipped), baseline("LocalSGD"), (3,))
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: baseline("SlowMow"), "did you mean 'SlowMo'"),
        (lambda: baseline("SlowMo", momentun=0.5), "no hyperparameter 'momentun'; did you mean 'm"),
        (lambda: baseline("LOptA"), "LOptA is learned: it runs with a theta"),
    ],
)
def test_unknown_baseline_or_hyperparameter_is_an_error_with_a_suggestion(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_baseline_hyperparameters_override_defaults(problem):
    family, opt = baseline("SlowMo", momentum=0.0).build(problem, {"slow_learning_rate": 0.25})
    state = opt.update(opt.init(jnp.ones(2)), jnp.ones(2))
    assert_trees_equal(opt.get_params(state), jnp.full(2, 0.75))
    assert (family.num_workers, family.num_local_steps) == (K, H)
