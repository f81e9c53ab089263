"""A run that starts from an earlier theta, and says so."""

import gin
import jax
import pytest
from small_tasks import assert_trees_equal

import comm_lopt
from comm_lopt.cli import main
from comm_lopt.meta_train import ResumeError
from comm_lopt.pretrained import folders
from comm_lopt.theta import ThetaError, theta_file


@pytest.fixture
def saved(tmp_path):
    """Two folders with a theta of the small run's optimizer each."""
    learned_opt = comm_lopt.LOptA(hidden_size=4)
    folders = [tmp_path / "one", tmp_path / "other"]
    for seed, folder in enumerate(folders):
        theta = learned_opt.init(jax.random.PRNGKey(seed))
        comm_lopt.save_theta(folder, learned_opt, theta, {"task": "a_task"})
    return folders


def test_run_starts_from_it_records_it_and_goes_on_with_no_other(started, tmp_path, saved):
    one, other = saved
    folder = tmp_path / "run"
    started(folder, init_theta=one)
    _, expected, _ = comm_lopt.load_theta(one)
    _, theta, told = comm_lopt.load_theta(folder / "theta")
    assert_trees_equal(theta, expected)
    digest = theta_file(one)["sha256"]
    assert told["started_from"] == digest
    found = f"init_theta: {digest} saved, {theta_file(other)['sha256']} here"
    with pytest.raises(ResumeError, match=found):
        started(folder, init_theta=other, resume=True)
    # The checkpoint has what is needed of it.
    started(folder, resume=True)
    assert comm_lopt.load_theta(folder / "theta")[2]["started_from"] == digest
    started(folder, init_theta=one / "theta.safetensors", resume=True)


def test_run_starts_from_one_that_ships_by_its_name(started, tmp_path, saved, monkeypatch):
    monkeypatch.setattr(folders, "_FOLDER", tmp_path)
    (saved[0] / "card.json").touch()
    started(tmp_path / "run", init_theta="one")
    told = comm_lopt.load_theta(tmp_path / "run" / "theta")[2]
    assert told["started_from"] == theta_file(saved[0])["sha256"]


def test_run_that_started_at_random_goes_on_with_none(started, tmp_path, saved):
    started(tmp_path / "run")
    assert "started_from" not in comm_lopt.load_theta(tmp_path / "run" / "theta")[2]
    with pytest.raises(ResumeError, match="init_theta: random saved, [0-9a-f]{64} here"):
        started(tmp_path / "run", init_theta=saved[0], resume=True)


def test_theta_of_another_size_or_rule_is_refused_with_the_difference(started, tmp_path, saved):
    with pytest.raises(ThetaError, match="hidden_size=4 in the file, 5 wanted"):
        started(tmp_path / "run", "LOptA.hidden_size = 5", init_theta=saved[0])
    with pytest.raises(ThetaError, match="a theta of LOptA, not of LOpt;"):
        started(tmp_path / "run", "learned_optimizer = @LOpt()", init_theta=saved[0])
    with pytest.raises(FileNotFoundError, match="no theta at"):
        started(tmp_path / "run", init_theta=tmp_path)
    assert not (tmp_path / "run").exists()


def test_how_the_update_is_computed_is_no_difference(started, tmp_path, saved):
    started(tmp_path / "run", "LOptA.implementation = 'plain'", init_theta=saved[0])


def test_command_line_hands_it_on(tmp_path, capsys, ordinary_promotion):
    flags = ["--train_log_dir", str(tmp_path / "run"), "--init_theta", str(tmp_path)]
    assert main(["meta-train", "--config_file", "experiments/digits.gin", *flags]) == 2
    assert f"no theta at {tmp_path / 'theta.safetensors'}" in capsys.readouterr().err
    gin.clear_config()
