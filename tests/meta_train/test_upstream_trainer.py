"""The gin files that `comm-lopt meta-train` takes also drive upstream's own trainer."""

import pathlib
import re

import gin
import jax
import numpy as np
import pytest
from learned_optimization import checkpoints
from learned_optimization.outer_trainers import gradient_learner

import comm_lopt
from comm_lopt.cli import main
from comm_lopt.meta_train.convert import convert_params

SMALL = [
    "num_tasks = 2",
    "truncation_length = 2",
    "num_workers = 2",
    "num_local_steps = 2",
    "num_meta_steps = 2",
    "digits_datasets.batch_size = 4",
    "LOptA.hidden_size = 4",
    "ThetaAdamW.warmup_steps = 1",
    "run_train.summary_every_n = 0",
    "periodically_save_checkpoint.time_interval = 0.001",
    "my_own = 0.01",
    "perturbation_std = %my_own",
]


@pytest.fixture(autouse=True)
def _clean_gin(ordinary_promotion):
    yield
    gin.clear_config()


@pytest.fixture
def written(tmp_path):
    """A folder with what upstream's trainer writes: theta of step 7, and its configuration."""

    def write(learned_opt, **leaves):
        theta = learned_opt.init(jax.random.PRNGKey(3)) | leaves
        saved = gradient_learner.ParameterCheckpoint(theta, "no_gen_id", 7)
        checkpoints.save_checkpoint(str(tmp_path), "params_", saved, step=2)
        return theta

    return write


@pytest.mark.filterwarnings("ignore")  # Upstream's trainer divides by 0, among others.
def test_run_train_runs_upstreams_trainer_and_convert_makes_a_theta_of_it(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    folder = pathlib.Path("run")  # As it is written on a command line; Orbax wants more.
    flags = [flag for binding in SMALL for flag in ("--gin_bindings", binding)]
    command = ["run-train", "--config_file", "experiments/digits.gin", *flags]
    assert main([*command, "--train_log_dir", str(folder)]) == 0
    (convert,) = re.findall("`comm-lopt (convert .*)`", capsys.readouterr().out)
    assert "my_own" not in (folder / "config.gin").read_text(encoding="utf-8")

    assert main(convert.split()) == 0
    learned_opt, theta, trained_on = comm_lopt.load_theta(folder / "theta")
    template = gradient_learner.ParameterCheckpoint(learned_opt.init(jax.random.PRNGKey(0)), "", 0)
    restored = checkpoints.restore_checkpoint(str(folder.resolve()), template, "params_")
    jax.tree.map(np.testing.assert_array_equal, theta, restored.params)
    assert learned_opt.hparams()["hidden_size"] == 4
    assert trained_on["meta_steps"] == int(restored.step) == 1
    assert (trained_on["task"], trained_on["num_workers"]) == ("digits_mlp", 2)
    assert trained_on["local_learning_rate"] == 0.5


def test_run_train_of_a_task_alone_says_what_lacks(tmp_path, capsys):
    command = ["run-train", "--config_file", "tasks/digits_mlp.gin"]
    assert main([*command, "--train_log_dir", str(tmp_path / "run")]) == 2
    assert "does not set run_train.lopt; add meta_training.gin" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_convert_takes_the_configuration_that_is_given(tmp_path, written):
    theta = written(comm_lopt.LOptA(hidden_size=3))
    comm_lopt.load_config(["experiments/digits.gin"], ["LOptA.hidden_size = 3"])
    convert_params(tmp_path, tmp_path / "out")
    found, trained_on = comm_lopt.load_theta(tmp_path / "out")[1:]
    jax.tree.map(np.testing.assert_array_equal, found, theta)
    assert trained_on["meta_steps"] == 7


@pytest.mark.parametrize("binding", ["LOptA.hidden_size = 4", "learned_optimizer = @LOpt()"])
def test_convert_refuses_a_theta_of_another_size_or_rule(tmp_path, written, binding):
    written(comm_lopt.LOptA(hidden_size=3))
    comm_lopt.load_config(["experiments/digits.gin"], [binding])
    with pytest.raises(ValueError, match="expects float32|is no theta of LOpt "):
        convert_params(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_convert_of_a_folder_without_params_says_so(tmp_path):
    comm_lopt.load_config(["experiments/digits.gin"])
    with pytest.raises(FileNotFoundError, match=r"no params_\* in"):
        convert_params(tmp_path, tmp_path / "out")


def test_convert_of_a_damaged_file_is_one_class_of_error(tmp_path):
    (tmp_path / "params_3").write_bytes(b"\x93no checkpoint")
    comm_lopt.load_config(["experiments/digits.gin"])
    with pytest.raises(ValueError, match="is no theta of LOptA"):
        convert_params(tmp_path, tmp_path / "out")
