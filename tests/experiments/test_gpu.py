"""The steps that a GPU is wanted for, at a tiny size on the CPU."""

import json
import os
import pathlib
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from comm_lopt.theta import load_theta

GPU = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "gpu"

if not GPU.exists():
    pytest.skip("there are no experiments beside an installed package", allow_module_level=True)


def run_step(script, out, **environment):
    """Runs a step, and gives its figures and the table that it prints."""
    settings = {"SIZE": "tiny", "OUT": str(out), "PYTHON": sys.executable, **environment}
    done = subprocess.run(
        [GPU / script], env={**os.environ, **settings}, check=True, text=True, capture_output=True
    )
    results = [json.loads(path.read_text(encoding="utf-8")) for path in out.glob("*.json")]
    return results[0]["figures"] if results else None, done.stdout


def test_learned_update_is_checked_and_timed(tmp_path):
    figures, table = run_step("01_kernel.sh", tmp_path)
    errors = [found["error"] for found in figures["correctness"]]
    assert len(errors) == 4
    assert max(errors) < 1e-5
    assert figures["updates"]["transformer"]["upstream"]["seconds"] > 0
    assert "x upstream" in table


def test_meta_step_is_timed_and_its_profile_is_read(tmp_path):
    figures, table = run_step("02_meta_step.sh", tmp_path, RULES="LOptA")
    assert figures["seconds"]["LOptA"] > figures["seconds"]["local_rounds"] > 0
    # CPUs have no streams of kernels.
    assert figures["profile_of_LOptA"]["launches"] == 0
    assert "floor, highest" in table


def test_meta_training_goes_on_from_what_an_earlier_go_left(tmp_path):
    bounds = {"SECONDS_AT_MOST": "200"}
    _, first = run_step("03_meta_train.sh", tmp_path, **bounds)
    with tarfile.open(tmp_path / "run.tgz") as archive:
        assert "./theta/theta.safetensors" in archive.getnames()
    _, again = run_step("03_meta_train.sh", tmp_path, RUN=str(tmp_path / "run.tgz"), **bounds)
    # Nothing is left to do: the last row is the same, its seconds included.
    assert first.splitlines()[-1] == again.splitlines()[-1]
    assert first.splitlines()[-1].startswith("2,")


def test_thetas_are_tested_on_test_tasks(tmp_path):
    bounds = {"TASKS": "digits", "METHODS": "none", "SECONDS_AT_MOST": "200"}
    _, table = run_step("04_meta_test.sh", tmp_path, THETAS="Shipped=lopt-r-1", **bounds)
    assert "| 5. digits, MLP 32, T 100 | **0.00" in table
    with tarfile.open(tmp_path / "tested.tgz") as archive:
        assert "./digits/Shipped.json" in archive.getnames()


@pytest.mark.parametrize("name", ["lopt_a", "lopt_r"])
def test_committed_theta_is_the_best_of_its_validations(name):
    rows = np.genfromtxt(GPU / "results" / name / "validation.csv", delimiter=",", names=True)
    best = rows[np.argmin(rows["mean_train_loss"])]
    _, _, trained_on = load_theta(GPU / "results" / name)
    assert trained_on["meta_steps"] == best["meta_step"]


@pytest.mark.parametrize("rule", ["LOpt", "LOptA", "LAggA", "LOptR"])
def test_committed_figures_are_of_right_updates(rule):
    figures = json.loads((GPU / "results" / "kernel.json").read_text(encoding="utf-8"))["figures"]
    errors = [e["error"] for e in figures["correctness"] if e["rule"] == rule]
    assert len(errors) == 36
    assert np.all(np.asarray(errors) < 1e-5)
