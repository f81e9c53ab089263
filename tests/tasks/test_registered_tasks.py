"""Every registered task: its size, and three rounds of Local SGD and LOpt-A on it."""

import gin
import jax
import numpy as np
import pytest

import comm_lopt
from comm_lopt import meta_test

NUM_PARAMETERS = {
    "digits_mlp": 2_410,
    "fashion_mnist_mlp": 118_282,
    "fashion_mnist_mlp8": 2_410,
    "fashion_mnist_conv": 56_394,
}


@pytest.fixture(autouse=True)
def _small_data(small_fashion_mnist, monkeypatch):
    monkeypatch.setenv("COMM_LOPT_DATA", str(small_fashion_mnist))
    yield
    gin.clear_config()


def _num_parameters(task_family):
    params = task_family.sample_task(jax.random.PRNGKey(0)).init(jax.random.PRNGKey(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_every_task_has_its_size_below():
    assert set(NUM_PARAMETERS) == set(comm_lopt.TASKS)


@pytest.mark.parametrize("name", comm_lopt.TASKS)
def test_task_has_the_parameters_of_its_architecture(name):
    comm_lopt.load_config([f"tasks/{name}.gin"])
    assert _num_parameters(comm_lopt.TASKS[name].make()) == NUM_PARAMETERS[name]


def test_widths_and_depth_are_gin_bindings():
    binding = "fashion_mnist_mlp.hidden_sizes = (3, 4, 5)"
    comm_lopt.load_config(["tasks/fashion_mnist_mlp.gin"], [binding])
    expected = 785 * 3 + 4 * 4 + 5 * 5 + 6 * 10
    assert _num_parameters(meta_test.meta_test_problem().task_family) == expected


@pytest.mark.parametrize("name", comm_lopt.TASKS)
def test_three_rounds_of_local_sgd_and_lopt_a(name, ordinary_promotion):
    sizes = ["num_rounds = 3", "num_workers = 2", "num_local_steps = 2"]
    batch = ["digits_datasets.batch_size = 4", "fashion_mnist_datasets.batch_size = 4"]
    comm_lopt.load_config([f"tasks/{name}.gin"], [*sizes, *batch])
    problem = meta_test.meta_test_problem()
    lopt_a = comm_lopt.LOptA(hidden_size=4)
    candidates = [
        meta_test.baseline("LocalSGD"),
        meta_test.learned(lopt_a, lopt_a.init(jax.random.PRNGKey(0)), 0.1),
    ]
    for candidate in candidates:
        curves = meta_test.run(problem, candidate, [0])
        assert curves.train_loss.shape == (1, 1, 3)
        assert np.isfinite(curves.train_loss).all()
        assert ((curves.heldout_accuracy >= 0) & (curves.heldout_accuracy <= 1)).all()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: comm_lopt.fashion_mnist_mlp((8, 0)), "hidden_sizes=0"),
        (lambda: comm_lopt.fashion_mnist_conv(()), r"channels=\(\)"),
        (lambda: comm_lopt.fashion_mnist_conv((0,)), "channels=0"),
    ],
)
def test_empty_layers_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()
