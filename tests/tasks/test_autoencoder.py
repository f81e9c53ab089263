"""An autoencoder's loss is a squared error, and whole runs do without an accuracy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import comm_lopt
from comm_lopt.data.sources.digits import digits_datasets

KEY = jax.random.PRNGKey(0)


@pytest.fixture(scope="module")
def task():
    return comm_lopt.AutoencoderTask(digits_datasets(3), (5, 2), "autoencoder")


def test_loss_is_the_mean_squared_error_of_pixels_between_0_and_1(task):
    params, state = task.init_with_state(KEY)
    assert state is None
    batch = jnp.asarray([4, 0, 7], jnp.int32)
    pixels = task.datasets.array_of("train", "image")[[4, 0, 7]].reshape(3, 64) / 16.0
    assert pixels.max() == 1
    hidden = pixels
    for layer in range(3):
        weights = params[f"mlp/~/linear_{layer}"]
        hidden = hidden @ np.asarray(weights["w"], np.float64) + np.asarray(weights["b"])
        hidden = np.maximum(hidden, 0) if layer < 2 else 1 / (1 + np.exp(-hidden))
    expected = np.mean((hidden - pixels) ** 2)
    np.testing.assert_allclose(task.loss(params, KEY, batch), expected, rtol=1e-5)
    assert task.loss_and_aux(params, KEY, batch)[1] == {}


def test_normalizer_gives_divergence_a_finite_price(task):
    losses = jnp.asarray([0.1, 0.9, np.inf, np.nan], jnp.float32)
    np.testing.assert_allclose(task.normalizer(losses), [0.1, *[0.375] * 3])


def test_run_lowers_the_loss_and_its_results_have_no_accuracy(task, monkeypatch):
    for most in ("_MAX_HELDOUT", "_MAX_TRAIN"):
        monkeypatch.setattr(comm_lopt.meta_test.problem, most, 8)
    family = comm_lopt.upstream.single_task_to_family(task)
    problem = comm_lopt.meta_test.Problem(family, 2, 2, 20)
    method = comm_lopt.hand_designed("LocalSGD", local_learning_rate=10.0)
    curves = comm_lopt.meta_test.run(problem, method, [0], evaluations="end")
    assert curves.train_loss[0, 0, -1] < 0.8 * curves.train_loss[0, 0, 0]
    results = comm_lopt.meta_test.make_results(problem, [0], {"LocalSGD": (method, curves)})
    entry = results["methods"]["LocalSGD"]["heldout"]
    assert entry["accuracy"] is None
    assert entry["loss"] == pytest.approx(float(curves.heldout_loss[0, 0, -1]))
