"""A meta-gradient or meta-loss that is not finite is not applied, is told, and does not last."""

import jax
import numpy as np
import pytest
import small_run
from small_run import checkpoint_steps, load, rows
from small_tasks import SoftmaxRegression, host_datasets, softmax_batches

import comm_lopt
from comm_lopt import upstream
from comm_lopt.meta_train import DivergedError, meta_train
from comm_lopt.meta_train.not_finite import NotFinite, begin_anew
from comm_lopt.meta_train.progress import RUNNING_MEAN, Progress

STEPS = 8


class PoisonedRegression(SoftmaxRegression):
    """Batches from number `first` to `last` have an input that is not a number."""

    def __init__(self, first, last):
        def batch(split, number):
            found = softmax_batches((), 3, seed=number)
            if first <= number < last:
                found["x"][0, 0] = np.nan
            return found

        self.datasets = host_datasets(batch)
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch("train", 0)
        )
        self.datasets.abstract_batch = abstract

    @property
    def name(self):
        return "poisoned"


def poisoned_run(folder, first, last, **arguments):
    # min_rounds: no inner problem ends, so that what is not finite would last.
    load("min_rounds = 500", "max_rounds = 1000", "random_initial_iteration_offset = 0")
    family = comm_lopt.LocalSGDTaskFamily(
        upstream.single_task_to_family(PoisonedRegression(first, last)),
        num_workers=2,
        num_local_steps=2,
    )
    return meta_train(
        folder, num_meta_steps=STEPS, task_families=[family], progress=False, **arguments
    )[1]


@pytest.mark.parametrize("behind", [[], ["nres.gin"]], ids=["PES", "NRES"])
def test_poisoned_rounds_are_skipped_told_and_over(tmp_path, capsys, monkeypatch, behind):
    monkeypatch.setattr(small_run, "FILES", [*small_run.FILES, *behind])
    # Two tasks with two rounds of four batches each take 16 a meta-step; a few come before.
    theta = poisoned_run(tmp_path, 60, 62)
    found = rows(tmp_path)
    bad = [int(row["meta_step"]) for row in found if row["meta_loss"] == "nan"]
    assert bad and len(bad) <= 2 and bad[0] > 1
    assert [int(row["skipped"]) for row in found][-1] == len(bad)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(theta))
    places = rows(tmp_path, "skipped.csv")
    assert {int(place["meta_step"]) for place in places} == set(bad)
    assert {place["task"] for place in places} == {"LocalSGD_poisoned"}
    assert places[0]["what"] == "loss"
    assert int(places[0]["inner_step"]) in (2 * bad[0] - 1, 2 * bad[0])
    assert f"meta-step {bad[0]} is not finite and not applied: loss of" in capsys.readouterr().err


def test_skipped_meta_step_leaves_theta_and_its_optimizer_as_they_were(tmp_path):
    poisoned_run(tmp_path, 0, 10**9, max_skipped_in_a_row=STEPS + 1)
    learned_opt, theta, trained_on = comm_lopt.load_theta(tmp_path / "theta")
    assert trained_on["meta_steps"] == STEPS
    start = learned_opt.init(jax.random.split(jax.random.PRNGKey(0), 4)[0])
    jax.tree.map(np.testing.assert_array_equal, theta, start)


def test_too_many_in_a_row_end_the_run_with_a_diagnosis_and_a_checkpoint(tmp_path):
    with pytest.raises(DivergedError, match="3 meta-steps in a row were not finite") as told:
        poisoned_run(tmp_path, 0, 10**9, max_skipped_in_a_row=3)
    message = str(told.value)
    assert "loss of LocalSGD_poisoned" in message and "none was finite" in message
    assert "largest weight of theta" in message and "local_learning_rate" in message
    assert checkpoint_steps(tmp_path)[-1] == 3
    # The count is part of the checkpoint: a resumed run does not begin to count anew.
    with pytest.raises(DivergedError, match="4 meta-steps in a row"):
        poisoned_run(tmp_path, 0, 10**9, max_skipped_in_a_row=3, resume=True)


def test_best_is_the_lowest_running_mean_and_needs_a_full_one():
    progress = Progress()
    for _ in range(RUNNING_MEAN - 1):
        progress = progress.after_applied(0.5, 1.0)
    assert progress.at_checkpoint().best_meta_step is None
    progress = progress.after_applied(0.5, 1.0).at_checkpoint()
    assert (progress.best_meta_step, progress.best_mean) == (RUNNING_MEAN, 0.5)
    worse = progress.after_applied(1.0, 2.0).at_checkpoint()
    assert worse.best_meta_step == RUNNING_MEAN
    better = worse.after_applied(0.0, 3.0).after_applied(0.0, 3.0).at_checkpoint()
    assert better.best_meta_step == RUNNING_MEAN + 3
    assert better.best_mean == pytest.approx((0.5 * 47 + 1.0) / 50)
    assert Progress.from_json(better.to_json()) == better


def test_skipped_meta_steps_count_and_stay_out_of_the_mean():
    progress = Progress().after_applied(1.0, 1.0).after_skipped(2.0).after_skipped(3.0)
    assert (progress.meta_step, progress.skipped, progress.skipped_in_a_row) == (3, 2, 2)
    assert progress.recent_losses == (1.0,)
    assert progress.after_applied(1.0, 4.0).skipped_in_a_row == 0


def test_only_the_inner_problems_of_the_broken_estimator_begin_anew():
    class Estimator:
        def init_worker_state(self, weights, key):
            return weights, jax.random.uniform(key)

    broken = [NotFinite(3, number, "a_task", None, None, "meta-gradient") for number in (0, 2)]
    key = jax.random.PRNGKey(0)
    unrolls = begin_anew([Estimator()] * 3, ["a", "b", "c"], broken, "theta", key)
    assert unrolls[1] == "b"
    (first, draw), (third, other) = unrolls[0], unrolls[2]
    assert first == third == "theta" and draw != other
