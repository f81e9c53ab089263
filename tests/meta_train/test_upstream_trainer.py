"""The gin files that `comm-lopt meta-train` takes also drive upstream's own trainer."""

import gin
import jax
import numpy as np
import pytest
from learned_optimization import checkpoints, outer_train
from learned_optimization.outer_trainers import gradient_learner

import comm_lopt

SMALL = [
    "num_tasks = 2",
    "truncation_length = 2",
    "num_workers = 2",
    "num_local_steps = 2",
    "num_meta_steps = 2",
    "ThetaAdamW.warmup_steps = 1",
    "run_train.summary_every_n = 1",
]


@pytest.mark.filterwarnings("ignore")  # Upstream's trainer divides by 0, among others.
def test_quickstart_file_drives_upstreams_run_train(tmp_path, ordinary_promotion):
    comm_lopt.load_config(["experiments/quickstart.gin"], SMALL)
    outer_train.run_train(train_log_dir=str(tmp_path))
    gin.clear_config()
    theta = comm_lopt.LOptA().init(jax.random.PRNGKey(0))
    template = gradient_learner.ParameterCheckpoint(theta, "", 0)
    restored = checkpoints.restore_checkpoint(str(tmp_path), template, "params_")
    assert jax.tree.structure(restored.params) == jax.tree.structure(theta)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored.params))
