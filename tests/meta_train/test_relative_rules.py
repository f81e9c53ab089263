"""Meta-training of relative rules as the gin files describe it."""

import gin
import jax
import numpy as np
import pytest
import small_run

import comm_lopt
from comm_lopt.meta_train import meta_train
from comm_lopt.tasks import local_sgd_task


@pytest.mark.parametrize(
    "form",
    [
        "MomentumAlpha",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("ConstantAlpha", "LearnedAlpha", "AlphaFromStatistics")
        ),
    ],
)
def test_all_of_theta_is_learned_and_local_steps_are_steered(
    form, tmp_path, monkeypatch, ordinary_promotion
):
    rates, scaled_by = [], local_sgd_task.scaled_by

    def recording(local_opt, rate):
        rates.append(rate)
        return scaled_by(local_opt, rate)

    monkeypatch.setattr(local_sgd_task, "scaled_by", recording)
    bindings = ["num_meta_steps = 2", "ThetaAdamW.weight_decay = 0.0", "LOptR.hidden_size = 4"]
    try:
        comm_lopt.load_config(
            ["tasks/digits_mlp.gin", "optimizers/lopt_r.gin", "meta_training.gin"],
            [*small_run.SMALL, *bindings, f"LOptR.step_size = @{form}()"],
        )
        learned_opt, theta = meta_train(tmp_path, progress=False, validation_every=0)
    finally:
        gin.clear_config()
    assert rates and all(rate is not None for rate in rates)
    start = learned_opt.init(jax.random.split(jax.random.PRNGKey(0), 4)[0])
    for before, after in zip(*map(jax.tree.leaves, (start, theta)), strict=True):
        assert np.all(np.isfinite(after)) and np.any(np.asarray(before) != after)
    loaded_opt, loaded, _ = comm_lopt.load_theta(tmp_path / "theta")
    assert loaded_opt.hparams() == learned_opt.hparams()
    jax.tree.map(np.testing.assert_array_equal, loaded, theta)
