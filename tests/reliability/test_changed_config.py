"""Resuming with another problem is refused, and the difference shown; the harmless may change."""

import jax
import numpy as np
import pytest
from small_run import rows, run

from comm_lopt.meta_train import ResumeError
from comm_lopt.meta_train.settings import require_same_settings

CHANGES = {
    "num_workers = 3": "num_workers: 2 saved, 3 here",
    "num_local_steps = 1": "num_local_steps: 2 saved, 1 here",
    "digits_datasets.batch_size = 5": "digits_datasets.batch_size: 4 saved, 5 here",
    "digits_mlp.hidden_sizes = (16,)": r"digits_mlp.hidden_sizes: \(32,\) saved, \(16,\) here",
    "LOptA.hidden_size = 5": "optimizer.hidden_size: 4 saved, 5 here",
    "local_learning_rate = 0.25": r"task_families\[0\].local_learning_rate: 0.5 saved, 0.25 here",
    "local_sgd.learning_rate = 0.2": r"task_families\[0\].local_learning_rate: 0.5 saved, 0.2 here",
    "participation = 1": r"task_families\[0\].participation: None saved, 1 here",
    "ThetaAdamW.learning_rate = 0.1": "ThetaAdamW.learning_rate: 0.003 saved, 0.1 here",
    "truncation_length = 3": "TruncatedPES.trunc_length: 2 saved, 3 here",
    "perturbation_std = 0.02": "TruncatedPES.std: 0.01 saved, 0.02 here",
    "num_tasks = 3": "TruncatedPES.num_tasks: 2 saved, 3 here",
    "inner_task_family = @transformer_lm()": "task_family: @digits_mlp.. saved, @transformer_lm..",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two meta-steps, which nothing here may change."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture(autouse=True)
def _started(folder, _as_users_have_it):
    if not (folder / "metrics.csv").exists():
        run(folder, "num_meta_steps = 2")


@pytest.mark.parametrize("binding", CHANGES)
def test_another_problem_is_refused_with_the_difference(folder, binding):
    with pytest.raises(ResumeError, match=CHANGES[binding]) as refused:
        run(folder, "num_meta_steps = 2", binding, resume=True)
    assert "Only these may change: " in str(refused.value)
    assert [row["meta_step"] for row in rows(folder)] == ["1", "2"]


def test_another_seed_is_refused(folder):
    with pytest.raises(ResumeError, match="seed: 0 saved, 1 here"):
        run(folder, "num_meta_steps = 2", resume=True, seed=1)


def test_what_is_harmless_may_change(tmp_path, capsys):
    run(tmp_path, "num_meta_steps = 2")
    bindings = [
        "num_meta_steps = 3",
        "meta_train.checkpoint_every = 2",
        "meta_train.keep_checkpoints = 1",
        "meta_train.max_skipped_in_a_row = 5",
    ]
    run(tmp_path, *bindings, resume=True)
    assert [row["meta_step"] for row in rows(tmp_path)] == ["1", "2", "3"]
    told = capsys.readouterr().err
    assert "num_meta_steps: 2 until now, 3 from meta-step 2 on" in told


def test_harmless_settings_are_known_behind_scopes_and_modules():
    saved = {"comm_lopt.meta_train.progress": "True", "a/ThetaAdamW.num_meta_steps": "1"}
    require_same_settings(saved, dict.fromkeys(saved, "other"), "here")
    with pytest.raises(ResumeError, match="a/b.num_meta_steps: 1 saved, 2 here"):
        require_same_settings({"a/b.num_meta_steps": "1"}, {"a/b.num_meta_steps": "2"}, "here")


def test_other_data_at_the_same_path_are_refused_and_the_same_at_another_are_not(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, 8, 8)).astype(np.uint8)

    def run_on(name, **arguments):
        np.savez(tmp_path / name, image=images, label=np.arange(100) % 10)
        bindings = [
            "num_meta_steps = 2",
            "digits_mlp.datasets = @npz_datasets()",
            "npz_datasets.batch_size = 4",
            f"npz_datasets.path = '{tmp_path / name}'",
        ]
        run(tmp_path / "run", *bindings, **arguments)

    run_on("images.npz")
    run_on("elsewhere.npz", resume=True)
    images[7, 3, 3] ^= 1
    with pytest.raises(ResumeError, match="task_families.0..data: [0-9a-f]{64} saved, ") as refused:
        run_on("images.npz", resume=True)
    assert "path of the same data" in str(refused.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("jax_threefry_partitionable", False),
        ("jax_default_matmul_precision", "highest"),
        ("jax_default_prng_impl", "rbg"),
        ("jax_enable_x64", True),
    ],
)
def test_another_option_of_jax_that_decides_numbers_is_refused(folder, option, value):
    before = getattr(jax.config, option)
    jax.config.update(option, value)
    try:
        with pytest.raises(ResumeError, match=f"{option}: {before} saved, {value} here"):
            run(folder, "num_meta_steps = 2", resume=True)
    finally:
        jax.config.update(option, before)
