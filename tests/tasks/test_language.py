"""Language models: bytes in, bytes out, and no look at the future."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import comm_lopt
from comm_lopt.data.sources.text import python_topics_datasets

KEY = jax.random.PRNGKey(0)


@pytest.fixture(autouse=True)
def _haiku_attention_needs_promotion(ordinary_promotion):
    yield


FAMILIES = {
    "transformer": lambda data: comm_lopt.transformer_lm(8, 2, 2, 6, data),
    "gru": lambda data: comm_lopt.gru_lm(8, 6, data),
}


@pytest.fixture(scope="module", params=FAMILIES)
def task(request):
    family = FAMILIES[request.param](python_topics_datasets(length=6, batch_size=3))
    return family.task_fn(family.sample(KEY))


@pytest.fixture(scope="module")
def params(task):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return jax.jit(task.init)(KEY)


@pytest.fixture(scope="module")
def logits_of(task, params):
    apply = jax.jit(lambda text: task._model.apply(params, {}, KEY, text, False)[0])
    return lambda text: np.asarray(apply(jnp.asarray(text, jnp.int32)))


def test_prediction_depends_on_earlier_bytes_and_on_no_later_one(logits_of):
    text = np.asarray([[10, 20, 30, 40, 50, 60]])
    before = logits_of(text)
    for position in range(6):
        changed = text.copy()
        changed[0, position] = 99
        differs = np.abs(logits_of(changed) - before).max((0, 2)) > 1e-7
        assert not differs[:position].any()
        assert differs[position]
    changed = text.copy()
    changed[0, 0] = 99
    assert (np.abs(logits_of(changed) - before)[0, 5] > 1e-7).any()


def test_positions_are_told_apart(logits_of):
    logits = logits_of(np.full((1, 6), 65))
    assert np.abs(logits[0, 0] - logits[0, 5]).max() > 1e-6


def test_loss_is_that_of_each_next_byte(task, params, logits_of):
    batch = next(task.datasets.train)
    text = np.asarray(task.datasets.gather(batch)["text"])
    logits = logits_of(text[:, :-1]).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.mean([log_p[b, i, text[b, i + 1]] for b in range(3) for i in range(6)])
    loss, aux = jax.jit(task.loss_and_aux)(params, KEY, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(aux["bits_per_byte"], expected / np.log(2), rtol=1e-5)
    right = np.mean(logits.argmax(-1) == text[:, 1:])
    np.testing.assert_allclose(aux["accuracy"], right)
    np.testing.assert_allclose(jax.jit(task.loss)(params, KEY, batch), expected, rtol=1e-5)


def test_new_model_is_near_guessing_and_learns(task, monkeypatch):
    for most in ("_MAX_HELDOUT", "_MAX_TRAIN"):
        monkeypatch.setattr(comm_lopt.meta_test.problem, most, 100)
    problem = comm_lopt.meta_test.Problem(comm_lopt.upstream.single_task_to_family(task), 2, 2, 20)
    baseline = comm_lopt.hand_designed("LocalSGD", local_learning_rate=0.5)
    curves = comm_lopt.meta_test.run(problem, baseline, [0])
    np.testing.assert_allclose(curves.train_loss[0, 0, 0], np.log(256), atol=0.1)
    assert curves.train_loss[0, 0, -5:].mean() < 4.6
