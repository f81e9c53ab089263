"""Upstream's own tests of what comm_lopt builds on, run as they were installed."""

import os
import pathlib
import re
import subprocess
import sys

import learned_optimization
import pytest

import comm_lopt

# Folder and module of each test: upstream's PES, learner and schedules, which every run uses.
USED = (
    "outer_trainers/gradient_learner_test.py",
    "outer_trainers/truncated_pes_test.py",
    "outer_trainers/truncation_schedule_test.py",
)
# Its learned optimizers, with which ours are compared elsewhere, and another estimator.
OTHERS = (
    "learned_optimizers/adafac_mlp_lopt_test.py",
    "learned_optimizers/mlp_lopt_test.py",
    "outer_trainers/truncated_es_test.py",
)


@pytest.mark.parametrize(
    "own_tests",
    [
        pytest.param(USED, id="used"),
        pytest.param(OTHERS, id="others", marks=pytest.mark.slow),
    ],
)
def test_upstreams_own_tests_pass_once_comm_lopt_is_imported(tmp_path, own_tests):
    package_dir = pathlib.Path(learned_optimization.__file__).parent
    root = pathlib.Path(comm_lopt.__file__).parents[1]
    script = "import comm_lopt.upstream, pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            "-q",
            "-p",
            "no:cacheprovider",
            # Pytest would load them itself, and they need the names that JAX removed.
            "--assert=plain",
            # Its own code was not written for comm_lopt's strictness, nor for this folder's ini.
            f"--rootdir={tmp_path}",
            "-c",
            os.devnull,
            *(str(package_dir / test) for test in own_tests),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # Most of the time is compiling.
            "JAX_NUMPY_DTYPE_PROMOTION": "standard",
            "JAX_NUMPY_RANK_PROMOTION": "allow",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    report = result.stdout + result.stderr
    assert result.returncode == 0, report
    summary = re.search(r"^(\d+) passed", result.stdout, flags=re.MULTILINE)
    assert summary is not None, report
    assert int(summary.group(1)) >= len(own_tests), report
