"""Validation: the runs of meta-testing, at a cost that is known, and the best theta by it."""

import math

import gin
import jax
import numpy as np
import pytest
from learned_optimization.learned_optimizers.base import LearnableSGD
from small_tasks import SoftmaxRegression, host_datasets, softmax_batches

import comm_lopt
from comm_lopt import meta_test, upstream
from comm_lopt.data.sources.digits import digits_datasets
from comm_lopt.meta_train.not_finite import WatchedEstimator
from comm_lopt.meta_train.progress import Progress
from comm_lopt.meta_train.validation import Validation, make_validation
from comm_lopt.tasks.digits import digits_mlp

LOPT = comm_lopt.LOptA(hidden_size=3)


@pytest.fixture(autouse=True)
def _clean_gin(ordinary_promotion):
    yield
    gin.clear_config()


def test_validation_losses_are_those_of_meta_testing(ordinary_promotion):
    inner = digits_mlp((4,), digits_datasets(batch_size=4))
    # Compiles sooner than ours.
    lopt = LearnableSGD(0.7)
    theta = lopt.init(jax.random.PRNGKey(1))
    problem = meta_test.Problem(inner, 2, 2, 5)
    method = meta_test.learned(lopt, theta, local_learning_rate=0.1)
    losses = meta_test.run(problem, method, (7, 8), evaluations="end").train_loss[0]
    family = comm_lopt.LocalSGDTaskFamily(inner, 2, 2, local_learning_rate=0.1)
    row = Validation({"digits": (family, 5)}, lopt, 1, (7, 8)).row(3, theta)
    assert row["meta_step"] == 3
    np.testing.assert_allclose(row["mean_train_loss"], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(row["final_train_loss"], losses[:, -1].mean(), rtol=1e-5)


def configured(*files, bindings=()):
    """(estimators, names of families) of these gin files."""
    comm_lopt.load_config(files, bindings)
    estimators = upstream.build_gradient_estimators(jax.random.PRNGKey(0), 1)
    return [WatchedEstimator(estimator) for estimator in estimators], ["digits_mlp"]


def test_a_run_of_digits_validates_ten_times_for_less_than_a_twentieth_of_its_rounds():
    validation, told = make_validation(
        *configured("experiments/digits.gin"), LOPT, num_meta_steps=800, num_rounds=100
    )
    assert [m for m in range(1, 801) if validation.is_due(m, 800)] == list(range(80, 801, 80))
    # 10 x 3 seeds x 100 rounds, of 800 x 2 signs x 8 tasks x 10 rounds.
    assert "in all 2.3% more rounds" in told
    assert 10 * len(validation.seeds) * 100 / (800 * 2 * 8 * 10) < 0.05


def test_run_too_short_for_validation_goes_without_unless_it_is_asked_for():
    parts = configured("experiments/digits.gin")
    validation, told = make_validation(*parts, LOPT, num_meta_steps=20, num_rounds=100)
    assert validation is None and "too short" not in told and "5 % of this short run" in told
    validation, _ = make_validation(*parts, LOPT, num_meta_steps=20, every=7)
    assert [m for m in range(1, 21) if validation.is_due(m, 20)] == [7, 14, 20]
    assert make_validation(*parts, LOPT, 10_000, every=0)[0] is None


def test_rounds_of_validation_are_those_of_the_problem_or_else_the_longest(begun, tmp_path):
    def rounds(*bindings):
        on = "meta_train.validation_every = 2"
        validation = begun(tmp_path, lambda parts: parts.validation, on, *bindings)
        return [runs.num_rounds for runs in validation._runs.values()]

    assert rounds("num_rounds = 9") == [9]
    assert rounds("meta_train.validation_rounds = None") == [5]


def test_data_that_cannot_be_drawn_again_are_left_to_meta_training():
    class HostRegression(SoftmaxRegression):
        datasets = host_datasets(lambda split, number: softmax_batches((), 3, seed=number))

    estimators, names = configured("experiments/digits.gin")
    estimators[0].task_family = upstream.single_task_to_family(HostRegression())
    estimators[0].truncated_step = estimators[0]
    validation, told = make_validation(estimators, names, LOPT, 800)
    assert validation is None and "cannot be drawn again" in told


def test_lowest_validation_loss_is_the_best_and_what_is_not_finite_never_is():
    progress = Progress(meta_step=2).after_validation(math.nan)
    assert progress.best_meta_step is None
    progress = progress.after_validation(0.5)
    assert (progress.best_meta_step, progress.best_validation) == (2, 0.5)
    later = progress.after_applied(1.0, 1.0)
    assert later.after_validation(0.5).best_meta_step == 2
    assert later.after_validation(0.4).best_meta_step == 3
    assert Progress.from_json(later.to_json()) == later


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"every": -1}, "validation_every=-1"),
        ({"every": 1, "num_rounds": 0}, "validation_rounds=0"),
        ({"every": 1, "seeds": ()}, "seeds"),
        ({"every": 1, "seeds": (0, -3)}, "validation_seeds=-3"),
    ],
)
def test_bad_numbers_are_refused(arguments, told):
    parts = configured("experiments/digits.gin")
    with pytest.raises(ValueError, match=told):
        make_validation(*parts, LOPT, 800, **arguments)
