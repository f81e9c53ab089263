"""A meta-training run becomes what ships: the same each time, and only what was measured."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

import comm_lopt
from comm_lopt.cli.method_specs import method_of_theta
from comm_lopt.meta_test import Problem
from comm_lopt.pretrained.card import read_card
from comm_lopt.pretrained.model_card import readme
from comm_lopt.theta import theta_file

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def test_same_run_and_flags_give_the_same_files(ship, flags, small_folder, tmp_path):
    assert ship(*flags, "--out_dir", tmp_path) == 0
    for path in small_folder.iterdir():
        assert (tmp_path / path.parent.name / path.name).read_bytes() == path.read_bytes()


def test_card_says_how_theta_was_trained(run, small_folder):
    training = read_card(small_folder).training
    assert training.tasks == ("digits_mlp (K = 2, H = 2, local_sgd, γ drawn from 0.05 to 0.5)",)
    assert (training.meta_steps, training.meta_seed, training.seconds) == (4, 3, 6.0)
    assert training.command.endswith("--lines base --seeds 3")
    recommended = read_card(small_folder).recommended
    assert recommended.local_optimizer == "local_sgd"
    assert recommended.steered and recommended.alpha == "ConstantAlpha(value=2.0)"
    theta = run / "theta" / "theta.safetensors"
    assert theta.read_bytes() == (small_folder / "theta.safetensors").read_bytes()


def test_a_rate_that_goes_with_steps_and_workers_is_told_tested_and_checked_by(
    ship, flags, small_folder, tmp_path, ordinary_promotion
):
    write_tests(tmp_path / "tests.json", theta_file(small_folder)["sha256"])
    # At H = 4 and K = 16 the rate of the small theta's test, 0.1.
    power = ["--local_learning_rate", 0.05, "--steps_power", -0.5, "--workers_power", 0.5]
    tested = ["--tested", tmp_path / "tests.json", "--out_dir", tmp_path]
    assert ship(*flags, *power, *tested) == 0
    card = read_card(tmp_path / small_folder.name)
    assert [row.loss for row in card.tested] == [0.3]
    rates = [card.recommended.rate(*sizes) for sizes in ((1, 1), (4, 1), (1, 4), (4, 16))]
    assert rates == [0.05, 0.025, 0.1, 0.1]
    assert card.check.local_learning_rate == 0.05  # At its H = 2 and K = 2.
    assert "local_sgd(0.0353553)" in readme(card)  # At H = 16 and K = 8.
    assert "γ: 0.05 · H^-0.5 · K^0.5," in readme(card)
    problem = Problem(comm_lopt.digits_mlp(), num_workers=64, num_local_steps=16, num_rounds=1)
    method = method_of_theta(str(tmp_path / small_folder.name), problem)
    assert method.hparams["local_learning_rate"] == (0.1, "theta's card")


def entry(loss, learned=None, rate=None, rounds=None):
    return {
        "learned": learned is not None,
        "theta": learned and {"path": "p", "sha256": learned},
        "hparams": {"local_learning_rate": rate},
        "final_train_loss": loss,
        "final_train_loss_std": 0.01,
        "diverged_seeds": [100] if loss is None else [],
        "heldout": {"loss": loss},
        "rounds_to": {"final_loss_of_SlowMo": rounds, "final_loss_of_LocalSGD": None},
    }


def write_tests(path, digest):
    """Results of the test tasks, in one of which the theta ran, with two γ."""
    methods = {
        "SlowMo": entry(0.4, rate=0.3),
        "FedAdam": entry(None, rate=0.3),
        "other": entry(0.1, "0" * 64, 0.1, 50),
        "slow": entry(0.35, digest, 0.01, 60),
        "own": entry(0.3, digest, 0.1, 40),
    }
    problem = {"num_rounds": 50, "num_local_steps": 4, "num_workers": 16}
    results = {"problem": problem, "seeds": [100, 101], "methods": methods}
    others = {**results, "methods": {"SlowMo": methods["SlowMo"]}}
    problems = {
        "mlp": {"task": 1, "title": "an MLP", "results": results},
        "conv": {"task": 3, "title": "a convnet", "results": others},
    }
    path.write_text(json.dumps({"problems": problems}), encoding="utf-8")


def test_tests_and_selection_are_taken_from_results(ship, flags, small_folder, tmp_path):
    tested, recipe = tmp_path / "tests.json", tmp_path / "recipe.json"
    write_tests(tested, theta_file(small_folder)["sha256"])
    ratios = {"gru": {"train": [0.9, 0.8], "heldout": [1.0, 1.0]}}
    lines = {"base": {"rates": [0.03, 0.3], "thetas": {"3": {"ratios": ratios}}}}
    recipe.write_text(json.dumps({"rates": [0.1], "lines": lines}), encoding="utf-8")
    more = ["--tested", tested, "--recipe_results", recipe, "--selected", "By hand."]
    assert ship(*flags, *more, "--out_dir", tmp_path) == 0
    card = read_card(tmp_path / small_folder.name)
    (row,) = card.tested
    assert (row.task, row.num_rounds, row.num_seeds) == ("1. an MLP", 50, 2)
    assert (row.loss, row.heldout_loss) == (0.3, 0.3)
    assert row.baselines == {"SlowMo": 0.4, "FedAdam": None}
    assert row.shares == {"SlowMo": 0.8, "LocalSGD": None}
    told = readme(card)
    assert "| 1. an MLP | 50 | 2 | **0.3 ± 0.01** | 0.4 | diverged | 0.3 | 0.80 / - |" in told
    assert "By hand.\n\n| selection task" in told and "| gru | 0.900 | 0.800 |" in told


def test_run_that_has_not_ended_or_was_not_tested_is_refused(ship, run, flags, tmp_path, capsys):
    half = shutil.copytree(run, tmp_path / "base_3")
    shutil.rmtree(half / "checkpoints" / "4")
    assert ship(half, *flags[1:], "--out_dir", tmp_path / "out") == 2
    assert "has done 2 of 4 meta-steps" in capsys.readouterr().err
    assert ship(half, *flags[1:], "--unfinished", "--out_dir", tmp_path / "half") == 0
    write_tests(tmp_path / "tests.json", "f" * 64)
    assert ship(*flags, "--tested", tmp_path / "tests.json", "--out_dir", tmp_path / "out") == 2
    assert "has no run of the theta" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folders_of_thetas_are_in_wheel_and_sdist(small_folder, tmp_path):
    pytest.importorskip("setuptools")
    if not (REPOSITORY / "setup.py").exists():
        pytest.skip("there is no checkout beside an installed package")
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, tmp_path)
    for name in ("comm_lopt/pretrained", "gin"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    (tmp_path / "comm_lopt" / "__init__.py").touch()
    (tmp_path / "comm_lopt" / "upstream").mkdir()
    (tmp_path / "comm_lopt" / "upstream" / "__init__.py").touch()
    shutil.copytree(small_folder, tmp_path / "comm_lopt" / "pretrained" / small_folder.name)
    # What a wheel holds is what is built; what an sdist holds is in its list of sources.
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", "built", "egg_info"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    sources = (tmp_path / "comm_lopt.egg-info" / "SOURCES.txt").read_text(encoding="utf-8")
    for path in small_folder.iterdir():
        name = f"comm_lopt/pretrained/{path.parent.name}/{path.name}"
        assert (tmp_path / "built" / name).read_bytes() == path.read_bytes()
        assert name in sources.splitlines()
