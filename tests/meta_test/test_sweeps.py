"""Sweeps over hyperparameters."""

import json

import numpy as np
import pytest

from comm_lopt.data.sources.digits import digits_datasets
from comm_lopt.meta_test import sweeps
from comm_lopt.meta_test.check_results import check_sweep
from comm_lopt.meta_test.problem import Problem
from comm_lopt.meta_test.runs import Curves, run
from comm_lopt.meta_test.sweeps import grid_points, sweep
from comm_lopt.methods import hand_designed
from comm_lopt.tasks.digits import digits_mlp


@pytest.fixture(scope="module")
def problem():
    return Problem(digits_mlp((8,), digits_datasets(batch_size=16)), 2, 2, 6)


def test_sweep_finds_the_best_point_and_leaves_diverged_ones_out(problem):
    # Weights at 1e30 give losses that are not finite; 1e-4 learns nothing in six rounds.
    grid = {"local_learning_rate": (1e30, 1e-4, 0.5)}
    result = sweep(problem, hand_designed("LocalSGD"), (3, 7), grid)
    assert result.method.label == "LocalSGD"
    assert result.points == tuple({"local_learning_rate": rate} for rate in (1e30, 1e-4, 0.5))
    assert result.diverged_seeds == ((3, 7), (), ())
    assert result.best == {"local_learning_rate": 0.5}
    assert result.best_index == 2
    single = run(problem, hand_designed("LocalSGD", local_learning_rate=0.5), (3, 7))
    np.testing.assert_allclose(
        result.final_train_loss[2], single.train_loss[0, :, -1].mean(), rtol=1e-5
    )


def test_every_point_diverged_is_an_error_that_says_what_to_try(problem, monkeypatch):
    monkeypatch.setattr(
        sweeps, "run", lambda *arguments, **options: curves_of([[[np.nan, 0.1]]] * 2)
    )
    result = sweep(problem, hand_designed("LocalSGD"), (3,), {"local_learning_rate": (1e30, 1e32)})
    with pytest.raises(ValueError, match=r"every one of the 2 points of LocalSGD.* smaller"):
        _ = result.best


def curves_of(train_loss):
    train_loss = np.asarray(train_loss)
    shape = train_loss.shape[:2]
    return Curves(train_loss, np.ones(1), *[np.ones((*shape, 1))] * 2, {}, 0.0, None)


def test_point_with_one_diverged_seed_is_left_out_even_if_it_ends_lowest(problem, monkeypatch):
    # The seed of the first point that diverged came back to a low loss.
    losses = [[[np.inf, 0.1], [1.0, 0.1]], [[1.0, 0.6], [1.0, 0.5]], [[1.0, 0.2], [1.0, 0.7]]]
    monkeypatch.setattr(sweeps, "run", lambda *arguments, **options: curves_of(losses))
    grid = {"local_learning_rate": (1.0, 2.0, 3.0)}
    result = sweep(problem, hand_designed("LocalSGD"), (5, 6), grid)
    assert result.diverged_seeds == ((5,), (), ())
    np.testing.assert_allclose(result.final_train_loss, [0.1, 0.55, 0.45])
    assert result.best == {"local_learning_rate": 3.0}


@pytest.fixture
def swept_points(monkeypatch):
    """The points of a sweep that computes nothing."""
    seen = []

    def record(problem, method, seeds, points, grid_batch_size, evaluations):
        seen.append((points, evaluations))
        return curves_of(np.arange(1.0, 1.0 + len(points))[:, None, None])

    monkeypatch.setattr(sweeps, "run", record)

    def points(problem, method, grid=None):
        result = sweep(problem, method, (0,), grid)
        assert seen[-1] == (result.points, "end")
        return result

    return points


def axes_of(result):
    return {name: {point[name] for point in result.points} for name in result.points[0]}


def test_default_grid_is_the_one_of_the_registry(problem, swept_points):
    method = hand_designed("SlowMo")
    axes = axes_of(swept_points(problem, method))
    assert axes == {name: set(values) for name, values in method.grid.items()}


def test_partial_grid_keeps_the_other_axes_of_the_registry(problem, swept_points):
    method = hand_designed("SlowMo")
    result = swept_points(problem, method, {"momentum": (0.5, 0.9), "local_weight_decay": (0.1,)})
    assert axes_of(result) == {
        "local_learning_rate": set(method.grid["local_learning_rate"]),
        "slow_learning_rate": set(method.grid["slow_learning_rate"]),
        "momentum": {0.5, 0.9},
        "local_weight_decay": {0.1},
    }


def test_value_that_is_given_is_not_tuned(problem, swept_points):
    method = hand_designed("SlowMo", momentum=0.7)
    assert "momentum" not in axes_of(swept_points(problem, method))
    with pytest.raises(ValueError, match=r"momentum is fixed at 0.7 and has a grid; leave one out"):
        sweep(problem, method, (0,), {"momentum": (0.5,)})


@pytest.mark.parametrize(
    ("values", "edge"),
    [((0.9, 0.5, 0.1), {"momentum": 0.9}), ((0.5, 0.9, 0.1), {}), ((0.5,), {}), ((0.5, 0.5), {})],
)
def test_best_point_on_the_edge_of_its_grid_is_told(problem, swept_points, values, edge):
    method = hand_designed("SlowMo", local_learning_rate=0.1, slow_learning_rate=1.0)
    result = swept_points(problem, method, {"momentum": values})
    assert result.best == {"momentum": values[0]}
    assert result.on_edge == edge
    if edge:
        assert "SlowMo's best point lies on the edge of its grid (momentum=0.9)" in result.warning()
    else:
        assert result.warning() is None


def test_sweep_is_written_as_plain_json_with_its_problem_and_method(problem, swept_points):
    grid = {"momentum": np.logspace(-2, -1, 3), "slow_learning_rate": np.asarray([1, 2])}
    result = swept_points(problem, hand_designed("SlowMo", local_learning_rate=0.1), grid)
    saved = json.loads(json.dumps(result.to_json(), allow_nan=False))
    check_sweep(saved)
    assert saved["problem"]["num_workers"] == 2 and saved["problem"]["num_parameters"] == 610
    assert saved["method"]["hparams"]["local_learning_rate"] == 0.1
    assert saved["best"] == {"momentum": 0.01, "slow_learning_rate": 1}
    assert saved["on_edge"] == saved["best"]
    assert len(saved["points"]) == 6 and saved["versions"]["jax"] and saved["date"][:2] == "20"


def test_value_outside_its_interval_anywhere_in_a_grid_is_an_error_before_work(problem):
    method = hand_designed("SlowMo", local_learning_rate=0.1, slow_learning_rate=1.0)
    with pytest.raises(ValueError, match=r"momentum=1.5 lies outside \[0.0, 1.0\)"):
        sweep(problem, method, (0,), {"momentum": (0.5, 0.9, 1.5)})


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
        ({"momentum": ()}, r"the grid gives momentum the values \(\); give it a list"),
        ({"momentum": ("big",)}, "momentum='big' is not a finite number"),
        ({"momentum": np.asarray([0.5, np.nan])}, r"momentum=.*nan.* is not a finite number"),
        ({"momentum": 0.5}, "the grid gives momentum the values 0.5; give it a list"),
        ({"momentum": (True,)}, "momentum=True is not a finite number"),
    ],
)
def test_grid_that_makes_no_sense_is_an_error(problem, grid, message):
    with pytest.raises(ValueError, match=message):
        sweep(problem, hand_designed("SlowMo"), (0,), grid)


@pytest.mark.parametrize("size", [0, -1, 1.5])
def test_grid_batch_size_below_one_is_an_error(problem, size):
    with pytest.raises((ValueError, TypeError), match=f"grid_batch_size={size}"):
        sweep(problem, hand_designed("SlowMo"), (0,), {"momentum": (0.5, 0.9)}, size)
