"""What a run says when it starts and when it has ended."""

import shlex

import gin
import pytest

import comm_lopt
from comm_lopt.cli import _parser
from comm_lopt.meta_train import closing
from comm_lopt.meta_train.opening import family_names


@pytest.fixture(autouse=True)
def _clean_gin():
    yield
    gin.clear_config()


def test_start_tells_versions_device_problem_theta_and_validation(begun, tmp_path, capsys):
    begun(tmp_path, lambda parts: None, progress=True)
    versions, device, *lines = capsys.readouterr().err.splitlines()
    assert "jax " in versions and "learned_optimization " in versions
    assert device == "device: 1 x cpu"
    assert lines == [
        "problem: digits_mlp, K = 2, H = 2, B = 4, at most 5 rounds",
        "theta: 197 numbers in 9 arrays of LOptA",
        "validation: none, for it would be over 5 % of this short run; bind validation_every",
    ]


def test_nothing_is_said_where_no_progress_is_wanted(begun, tmp_path, capsys):
    begun(tmp_path, lambda parts: None)
    assert capsys.readouterr().err == ""


def test_families_of_one_task_have_names_of_their_own():
    family = comm_lopt.LocalSGDTaskFamily(comm_lopt.digits_mlp())
    names = family_names([family, comm_lopt.digits_mlp(), family])
    assert names == ["digits_mlp", "digits_mlp#2", "digits_mlp#3"]


def test_end_tells_where_everything_is_and_a_command_that_compares(tmp_path):
    folder = tmp_path / "a run"
    flags = ["--config_file", "tasks/digits_mlp.gin", "--gin_bindings", "num_workers = 2"]
    comm_lopt.load_config(["tasks/digits_mlp.gin"])
    (folder / "best_theta").mkdir(parents=True)
    for name in ("metrics.csv", "validation.csv", "best_theta/theta.safetensors"):
        (folder / name).touch()
    where, best, course, command = closing(folder, flags)
    assert str(folder / "theta") in where and str(folder / "best_theta") in best
    assert str(folder / "metrics.csv") in course and "meta_train.png" not in course
    words = shlex.split(command.removeprefix("compare it: "))
    assert words[0] == "comm-lopt"
    arguments = _parser().parse_args(words[1:])
    assert arguments.theta == [str(folder / "best_theta")]
    assert arguments.gin_bindings == ["num_workers = 2"]


def test_end_of_a_run_on_other_tasks_tells_no_command(tmp_path):
    assert not any("meta-test" in line for line in closing(tmp_path, []))
