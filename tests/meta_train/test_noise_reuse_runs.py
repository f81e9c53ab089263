"""Meta-training with noise-reuse evolution strategies, by one gin file behind the experiment's."""

import shutil

import jax
import numpy as np
import pytest
import small_run

from comm_lopt import upstream
from comm_lopt.upstream.noise_reuse import TruncatedNRES


@pytest.fixture(autouse=True)
def _with_the_file(monkeypatch, ordinary_promotion):
    monkeypatch.setattr(small_run, "FILES", [*small_run.FILES, "nres.gin"])


def test_the_settings_of_the_experiment_stay():
    small_run.load("perturbation_std = 0.125")
    (estimator,) = upstream.build_gradient_estimators(jax.random.PRNGKey(0), 1)
    assert isinstance(estimator, TruncatedNRES)
    assert (estimator.trunc_length, estimator.std) == (2, 0.125)
    assert estimator.stack_antithetic_samples
    assert (upstream.rounds_per_estimate(estimator), upstream.longest_problem(estimator)) == (8, 5)


@pytest.mark.slow
def test_resumed_run_is_one_that_was_never_stopped(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    theta = small_run.run(whole)
    rows = small_run.rows(whole)
    assert len({row["meta_loss"] for row in rows}) == 4
    assert all(np.isfinite(float(row["meta_loss"])) for row in rows)
    # As a run that was killed after its second meta-step, inside problems.
    shutil.copytree(whole, stopped)
    for meta_step in (3, 4):
        shutil.rmtree(stopped / "checkpoints" / str(meta_step))
    resumed = small_run.run(stopped, resume=True)
    jax.tree.map(np.testing.assert_array_equal, resumed, theta)
    assert small_run.rows(stopped) == rows
