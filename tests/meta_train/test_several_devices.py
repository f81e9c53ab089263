"""Meta-training whose tasks are spread over several devices, with upstream's TruncatedPESPMAP."""

import os

import gin
import jax
import pytest
import small_run

from comm_lopt import upstream

FILES = [*small_run.FILES, "several_devices.gin"]
ONE_SIGN_AFTER_THE_OTHER = "stack_antithetic_samples = False"


@pytest.fixture(autouse=True)
def _with_the_file(monkeypatch, ordinary_promotion):
    monkeypatch.setattr(small_run, "FILES", FILES)
    yield
    gin.clear_config()


def build(*bindings):
    small_run.load(*bindings)
    (estimator,) = upstream.build_gradient_estimators(jax.random.PRNGKey(0), 1)
    return estimator


def test_one_gin_file_spreads_any_experiment_over_the_devices_that_are_here():
    estimator = build(ONE_SIGN_AFTER_THE_OTHER)
    assert type(estimator).__name__ == "TruncatedPESPMAP"
    assert upstream.num_devices_of(estimator) == jax.local_device_count()
    assert (estimator.trunc_length, estimator.std) == (2, 0.01)
    per_device = 2 * 2 * 2
    assert upstream.rounds_per_estimate(estimator) == per_device * jax.local_device_count()
    assert upstream.longest_problem(estimator) == 5


def test_both_signs_at_once_are_refused():
    with pytest.raises(ValueError, match="bind stack_antithetic_samples = False"):
        build()


@pytest.mark.slow
def test_run_on_four_devices_resumes_exactly(tmp_path, monkeypatch):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    monkeypatch.setenv("XLA_FLAGS", flags)
    bindings = [ONE_SIGN_AFTER_THE_OTHER, "ThetaAdamW.num_meta_steps = 4"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"

    def finish(folder, num_meta_steps, **arguments):
        more = [*bindings, f"num_meta_steps = {num_meta_steps}"]
        status, printed = small_run.finish(small_run.start(folder, *more, **arguments))
        assert status == 0, printed

    finish(whole, 4)
    finish(stopped, 2)
    finish(stopped, 4, resume=True)
    assert small_run.theta_bytes(stopped) == small_run.theta_bytes(whole)
    assert small_run.rows(stopped) == small_run.rows(whole)
    assert len({row["meta_loss"] for row in small_run.rows(whole)}) == 4
