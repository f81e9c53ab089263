"""Sweeps over hyperparameters."""

import numpy as np
import pytest

from comm_lopt.data.digits import digits_datasets
from comm_lopt.meta_test import sweeps
from comm_lopt.meta_test.problem import Problem, baseline
from comm_lopt.meta_test.runs import Curves, run
from comm_lopt.meta_test.sweeps import grid_points, sweep
from comm_lopt.optimizers.registry import OPTIMIZERS
from comm_lopt.tasks.digits import digits_mlp


@pytest.fixture(scope="module")
def problem():
    return Problem(digits_mlp((8,), digits_datasets(batch_size=16)), 2, 2, 6)


def test_sweep_finds_the_best_point_and_leaves_diverged_ones_out(problem):
    # Weights at 1e30 give losses that are not finite; 1e-4 learns nothing in six rounds.
    grid = {"local_learning_rate": (1e30, 1e-4, 0.5)}
    result = sweep(problem, baseline("LocalSGD"), (3, 7), grid)
    assert result.optimizer == "LocalSGD"
    assert result.points == tuple({"local_learning_rate": rate} for rate in (1e30, 1e-4, 0.5))
    assert result.diverged_seeds == ((3, 7), (), ())
    assert result.best == {"local_learning_rate": 0.5}
    assert result.best_index == 2
    single = run(problem, baseline("LocalSGD", local_learning_rate=0.5), (3, 7))
    np.testing.assert_allclose(
        result.final_train_loss[2], single.train_loss[0, :, -1].mean(), rtol=1e-5
    )


def test_every_point_diverged_is_an_error_that_says_what_to_try(problem, monkeypatch):
    monkeypatch.setattr(sweeps, "run", lambda *arguments: curves_of([[[np.nan, 0.1]]] * 2))
    result = sweep(problem, baseline("LocalSGD"), (3,), {"local_learning_rate": (1e30, 1e32)})
    with pytest.raises(ValueError, match=r"every one of the 2 points of LocalSGD.* smaller"):
        _ = result.best


def curves_of(train_loss):
    train_loss = np.asarray(train_loss)
    shape = train_loss.shape[:2]
    return Curves(train_loss, np.ones(1), np.ones((*shape, 1)), None, 0.0, 0)


def test_point_with_one_diverged_seed_is_left_out_even_if_it_ends_lowest(problem, monkeypatch):
    # The seed of the first point that diverged came back to a low loss.
    losses = [[[np.inf, 0.1], [1.0, 0.1]], [[1.0, 0.6], [1.0, 0.5]], [[1.0, 0.2], [1.0, 0.7]]]
    monkeypatch.setattr(sweeps, "run", lambda *arguments: curves_of(losses))
    grid = {"local_learning_rate": (1.0, 2.0, 3.0)}
    result = sweep(problem, baseline("LocalSGD"), (5, 6), grid)
    assert result.diverged_seeds == ((5,), (), ())
    np.testing.assert_allclose(result.final_train_loss, [0.1, 0.55, 0.45])
    assert result.best == {"local_learning_rate": 3.0}


def test_default_grid_is_the_one_of_the_registry(problem, monkeypatch):
    seen = []

    def record(problem, candidate, seeds, points, grid_batch_size):
        seen.extend([points, grid_batch_size])
        return curves_of(np.ones((len(points), len(seeds), 2)))

    monkeypatch.setattr(sweeps, "run", record)
    result = sweep(problem, baseline("DataParallelSGD"), (0,), grid_batch_size=4)
    assert seen == [result.points, 4]
    rates = tuple(point["learning_rate"] for point in result.points)
    assert rates == OPTIMIZERS["DataParallelSGD"].grid["learning_rate"]


def test_grid_points_are_the_product():
    points = grid_points({"a": (1.0, 2.0), "b": (3.0, 4.0)})
    assert points == (
        {"a": 1.0, "b": 3.0},
        {"a": 1.0, "b": 4.0},
        {"a": 2.0, "b": 3.0},
        {"a": 2.0, "b": 4.0},
    )


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"momentun": (0.9,)}, "SlowMo has no hyperparameter 'momentun'; did you mean 'momentum'"),
        ({"learning_rate": (0.9,)}, "SlowMo has no hyperparameter 'learning_rate'"),
        ({"momentum": ()}, "the grid gives momentum no values"),
    ],
)
def test_grid_that_makes_no_sense_is_an_error(problem, grid, message):
    with pytest.raises(ValueError, match=message):
        sweep(problem, baseline("SlowMo"), (0,), grid)
