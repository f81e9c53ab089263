"""Upstream's own trainer, driven by one gin file whatever upstream's shape."""

import gin
import jax
import numpy as np
import pytest
from learned_optimization import checkpoints, outer_train, summary
from learned_optimization.learned_optimizers import mlp_lopt
from learned_optimization.outer_trainers import gradient_learner

import comm_lopt

EXPERIMENT = """
include 'outer_training.gin'
import learned_optimization.learned_optimizers.mlp_lopt
import learned_optimization.tasks.quadratics

learned_optimizer = @MLPLOpt()
theta_optimizer = @Adam()
Adam.learning_rate = %theta_learning_rate
theta_learning_rate = 0.5
task_family = @FixedDimQuadraticFamily()
FixedDimQuadraticFamily.dim = 4
truncation_schedule = @LogUniformLengthSchedule()
LogUniformLengthSchedule.min_length = 2
LogUniformLengthSchedule.max_length = 8
truncation_length = 4
steps_per_jit = 2
num_tasks = 2
perturbation_std = 0.01
random_initial_iteration_offset = 8
stack_antithetic_samples = True
meta_loss_split = None
num_meta_steps = 2
num_estimators = 1

run_train.summary_every_n = 1
"""


@pytest.mark.usefixtures("fresh_gin")
@pytest.mark.filterwarnings("ignore")  # Upstream's trainer warns of divisions by 0, 64 bits ...
def test_one_gin_file_drives_upstreams_trainer(tmp_path, monkeypatch):
    writers = []
    make_writer = summary.JaxboardWriter

    def remember(log_dir):
        writers.append(make_writer(log_dir))
        return writers[-1]

    monkeypatch.setattr(summary, "JaxboardWriter", remember)
    config = tmp_path / "experiment.gin"
    config.write_text(EXPERIMENT)
    log_dir = tmp_path / "log"
    log_dir.mkdir()
    comm_lopt.load_config([str(config)], ["num_tasks = 3"])
    with gin.unlock_config():
        gin.parse_config("theta_learning_rate = 0.25")

    outer_train.run_train(train_log_dir=str(log_dir))

    written = (log_dir / "config.gin").read_text()
    assert "TruncatedPES" in written
    assert "num_tasks = 3" in written
    assert "Adam.learning_rate = 0.25" in written
    (writer,) = writers
    writer.close()
    (events,) = log_dir.glob("events.out.tfevents.*")
    assert events.stat().st_size > 0
    theta = mlp_lopt.MLPLOpt().init(jax.random.PRNGKey(0))
    saved = checkpoints.restore_checkpoint(
        str(log_dir),
        gradient_learner.ParameterCheckpoint(params=theta, gen_id="", step=0),
        prefix="params_",
    )
    assert jax.tree_util.tree_structure(saved.params) == jax.tree_util.tree_structure(theta)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree_util.tree_leaves(saved.params))
