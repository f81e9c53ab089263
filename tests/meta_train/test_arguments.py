"""Numbers that cannot be run are refused before any work, with value, rule and fix."""

import gin
import pytest
from small_run import load

import comm_lopt
from comm_lopt import meta_test, upstream
from comm_lopt.cli import main
from comm_lopt.meta_train import meta_train


@pytest.fixture(autouse=True)
def _clean_gin(ordinary_promotion):
    yield
    gin.clear_config()


@pytest.mark.parametrize(
    ("binding", "told"),
    [
        ("min_rounds = 100", "min_rounds=100.*above max_rounds=5.*lower the one"),
        ("min_rounds = 0", "min_rounds.*=0: the number of rounds of a problem must be at least 1"),
        ("max_rounds = 0", "max_rounds.*=0: the number of rounds of a problem must be"),
        ("perturbation_std = 0", "perturbation_std.*=0 lies outside"),
        ("perturbation_std = -0.1", "perturbation_std.*=-0.1 lies outside"),
        ("num_tasks = 0", "num_tasks=0: the number of tasks side by side must be"),
        ("truncation_length = 0", "(trunc_length|steps_per_jit)=0: the number of rounds"),
        ("steps_per_jit = 0", "steps_per_jit=0: the number of rounds per compiled call"),
        ("random_initial_iteration_offset = -1", "random_initial_iteration_offset=-1"),
    ],
)
def test_numbers_of_the_estimator(tmp_path, binding, told):
    load(binding)
    with pytest.raises(ValueError, match=told):
        meta_train(tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_numbers_of_pes_in_python():
    family = comm_lopt.LocalSGDTaskFamily(comm_lopt.digits_mlp())
    good = {"num_tasks": 2, "trunc_length": 4, "steps_per_jit": 2}
    schedule = upstream.LogUniformLengthSchedule(2, 5)
    for bad in ({"num_tasks": 0}, {"trunc_length": 0}, {"steps_per_jit": 0}, {"std": 0.0}):
        with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
            upstream.pes(family, comm_lopt.LOptA(), schedule, **{**good, **bad})
    with pytest.raises(ValueError, match="min_rounds=6"):
        schedule = upstream.LogUniformLengthSchedule(6, 5)
        upstream.pes(family, comm_lopt.LOptA(), schedule, **good)


@pytest.mark.parametrize("seed", [-1, 1 << 32, 10**20])
def test_seeds_of_every_command(tmp_path, seed):
    load()
    with pytest.raises(ValueError, match=rf"seed={seed}: a seed lies in \[0, 4294967296\)"):
        meta_train(tmp_path / "run", seed=seed)
    problem = meta_test.Problem(comm_lopt.digits_mlp(), 2, 2, 2)
    method = meta_test.hand_designed("LocalSGD")
    for command in (meta_test.run, meta_test.sweep):
        with pytest.raises(ValueError, match=f"seeds={seed}"):
            command(problem, method, [0, seed])
    assert not (tmp_path / "run").exists()


def test_seed_that_is_no_integer(tmp_path):
    load()
    with pytest.raises(TypeError, match="seed=0.5: a seed is an integer"):
        meta_train(tmp_path / "run", seed=0.5)


@pytest.mark.parametrize(
    ("command", "file", "told"),
    [
        ("meta-train", "tasks/digits_mlp.gin",
         "meta_train.num_meta_steps: no value; add the --config_file that gives it, such as "
         "meta_training.gin or that of a task, or --gin_bindings 'meta_train.num_meta_steps = "),
        ("meta-test", "optimizers/lopt_a.gin",
         "meta_test_problem.num_rounds: no value; add the --config_file that gives it, such as "
         "meta_training.gin or that of a task, or --gin_bindings 'meta_test_problem.task_family"),
    ],
)  # fmt: skip
def test_arguments_without_a_value(tmp_path, capsys, command, file, told):
    folder = ["--train_log_dir" if command == "meta-train" else "--out_dir", str(tmp_path / "a")]
    assert main([command, "--config_file", file, *folder]) == 2
    assert told in capsys.readouterr().err
