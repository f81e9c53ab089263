"""Two meta-steps on each kind of problem, and on a mixture; held-out data as meta-objective."""

import csv

import gin
import jax
import numpy as np
import pytest

import comm_lopt
from comm_lopt.cli import main

SMALL = [
    "num_tasks = 2",
    "truncation_length = 2",
    "num_workers = 2",
    "num_local_steps = 2",
    # At more, batches of two diverge, and what is clipped has no gradient.
    "local_learning_rate = 0.01",
    "min_rounds = 2",
    "max_rounds = 4",
    "num_meta_steps = 2",
    "ThetaAdamW.warmup_steps = 1",
    "LOptA.hidden_size = 4",
    "LOptA.implementation = 'plain'",  # Compiles sooner than others.
    "stack_antithetic_samples = True",  # One program to compile, not two.
    "digits_datasets.batch_size = 2",
    "fashion_mnist_mlp.hidden_sizes = (4,)",
    "fashion_mnist_conv.channels = (2, 3)",
    "fashion_mnist_datasets.batch_size = 2",
    "imagenet_datasets.batch_size = 2",
    "python_topics_datasets.batch_size = 2",
    "transformer_lm.width = 8",
    "transformer_lm.num_layers = 1",
    "transformer_lm.num_heads = 2",
]
FILES = ["optimizers/lopt_a.gin", "meta_training.gin"]


@pytest.fixture(autouse=True)
def _small(small_data_folder, monkeypatch, ordinary_promotion):
    monkeypatch.setenv("COMM_LOPT_DATA", str(small_data_folder))
    yield
    gin.clear_config()


def arguments(folder, files, *bindings):
    flags = ["meta-train", "--train_log_dir", str(folder)]
    for file in files:
        flags += ["--config_file", file]
    for binding in [*SMALL, *bindings]:
        flags += ["--gin_bindings", binding]
    return flags


def meta_train(folder, files, *bindings):
    assert main([*arguments(folder, files, *bindings), "--no_progress"]) == 0
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(np.isfinite(float(row["meta_loss"])) for row in rows)
    return rows, *comm_lopt.load_theta(folder / "theta")


TASKS = (
    "fashion_mnist_mlp", "fashion_mnist_conv", "imagenet32_resnet18", "transformer_lm",
    "sampled_mlp",
)  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_two_meta_steps(tmp_path, small_resnet, task):
    check_two_meta_steps(tmp_path, task)


@pytest.mark.slow
def test_two_meta_steps_of_a_whole_resnet(tmp_path):
    # Two rounds: that in which a problem ends does not count, and PES needs one that does.
    fewest = ["num_tasks = 1", "num_local_steps = 1"]
    check_two_meta_steps(tmp_path, "imagenet32_resnet18", *fewest)


def check_two_meta_steps(tmp_path, task, *bindings):
    files = [f"tasks/{task}.gin", *FILES]
    rows, _, theta, trained_on = meta_train(tmp_path / "run", files, *bindings)
    assert trained_on["task"] == task
    assert trained_on["meta_steps"] == 2
    initial = comm_lopt.LOptA(hidden_size=4).init(jax.random.PRNGKey(0))
    assert jax.tree.structure(theta) == jax.tree.structure(initial)
    assert any(float(row["meta_gradient_norm"]) > 0 for row in rows)


def test_two_meta_steps_on_a_mixture_average_the_gradients_of_both(tmp_path):
    rows, _, _, trained_on = meta_train(tmp_path / "mix", ["experiments/mixture.gin"])
    assert trained_on["task"] == "digits_mlp, transformer_lm"
    of_each = [float(rows[0][f"meta_loss/{task}"]) for task in ("digits_mlp", "transformer_lm")]
    np.testing.assert_allclose(of_each, [np.log(10), np.log(256)], rtol=0.1)
    np.testing.assert_allclose(float(rows[0]["meta_loss"]), np.mean(of_each), rtol=1e-6)
    # Half of guessing among 10 classes and half of guessing among 256 bytes.
    expected = (np.log(10) + np.log(256)) / 2
    np.testing.assert_allclose(float(rows[0]["meta_loss"]), expected, rtol=0.1)


def test_held_out_loss_is_one_binding_and_another_number(tmp_path):
    files = ["tasks/digits_mlp.gin", *FILES]
    training, *_ = meta_train(tmp_path / "training", files)
    heldout, *_ = meta_train(tmp_path / "heldout", files, "meta_loss_split = 'outer_valid'")
    assert training[0]["meta_loss"] != heldout[0]["meta_loss"]


def test_partition_is_told_and_used(tmp_path, capsys):
    bindings = ["partition = @DirichletParts()", "DirichletParts.alpha = 1.0"]
    files = ["tasks/digits_mlp.gin", *FILES]
    assert main(arguments(tmp_path / "run", files, *bindings)) == 0
    printed = capsys.readouterr().err
    assert "training examples of each worker: [" in printed
    sizes = printed.split("worker: [")[1].split("]")[0].split(", ")
    assert sum(map(int, sizes)) == 1437


def test_partition_too_small_for_a_batch_is_refused(tmp_path, capsys):
    # Four parts of 1,437 examples cannot all have 400.
    bindings = ["partition = @DirichletParts()", "DirichletParts.alpha = 0.1", "num_workers = 4"]
    files = ["tasks/digits_mlp.gin", *FILES]
    flags = arguments(tmp_path / "run", files, *bindings, "digits_datasets.batch_size = 400")
    assert main(flags) == 2
    message = capsys.readouterr().err
    assert "alpha=0.1" in message and "K = 4" in message
    assert not (tmp_path / "run").exists()
