"""Networks with model state: BatchNorm's averages travel through rounds and are averaged."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_tasks import assert_trees_close

import comm_lopt
from comm_lopt.data.sources.digits import digits_datasets

K, H, B, RATE = 3, 2, 5, 0.3
KEY = jax.random.PRNGKey(1)
EPSILON = 1e-5


@pytest.fixture(autouse=True)
def _haiku_batch_norm_needs_promotion(ordinary_promotion):
    yield


def normalised_network(images, num_classes, is_training):
    flat = images.reshape(images.shape[0], -1)
    norm = hk.BatchNorm(True, True, decay_rate=0.9, eps=EPSILON)
    return hk.Linear(num_classes)(norm(flat, is_training))


@pytest.fixture(scope="module")
def family():
    task = comm_lopt.ImageClassificationTask(digits_datasets(B), normalised_network, "normalised")
    inner = comm_lopt.upstream.single_task_to_family(task)
    return comm_lopt.LocalSGDTaskFamily(inner, K, H, comm_lopt.local_sgd(RATE))


@pytest.fixture(scope="module")
def start(family):
    task = family.task_fn(family.sample(KEY))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return task, *task.init_with_state(KEY), next(family.datasets.train)


def averages(state):
    return {
        name.rsplit("/", 1)[-1]: np.asarray(value["average"], np.float64)[0]
        for name, value in state.items()
    }


def test_round_averages_the_state_that_each_worker_ends_with(start):
    task, params, state, batches = start
    loss, new_state = task.loss_with_state(params, state, KEY, batches)
    losses, ends = [], []
    for k in range(K):
        weights, model_state = params, state
        for h in range(H):
            (one, model_state), gradient = jax.value_and_grad(
                task.inner.loss_with_state, has_aux=True
            )(weights, model_state, KEY, batches[k, h])
            weights = jax.tree.map(lambda w, g: w - RATE * g, weights, gradient)
            losses.append(one)
        ends.append(model_state)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    floats = [leaf for leaf in jax.tree.leaves(ends[0]) if leaf.dtype == np.float32]
    assert len(floats) == 4
    expected = jax.tree.map(lambda *leaves: np.mean(leaves, 0).astype(leaves[0].dtype), *ends)
    assert_trees_close(new_state, expected)


def test_averages_after_a_round_are_those_of_the_batches(start):
    task, params, state, batches = start
    _, new_state = task.loss_with_state(params, state, KEY, batches)
    images = np.asarray(task.inner.datasets.array_of("train", "image"), np.float64) / 16
    expected = np.zeros(64)
    for k in range(K):
        hidden = np.zeros(64)
        for h in range(H):
            hidden = 0.9 * hidden + 0.1 * images[batches[k, h]].reshape(B, 64).mean(0)
        expected += hidden / (1 - 0.9**H) / K
    np.testing.assert_allclose(averages(new_state)["mean_ema"], expected, rtol=1e-4, atol=1e-6)


def test_evaluation_normalises_with_the_averages_and_leaves_them(start):
    task, params, state, batches = start
    _, state = task.loss_with_state(params, state, KEY, batches)
    loss, after, aux = task.inner.loss_with_state_and_aux(params, state, KEY, batches[0, 0])
    assert_trees_close(after, state, rtol=0, atol=0)
    rows = task.inner.datasets.gather(batches[0, 0])
    flat = np.asarray(rows["image"], np.float64).reshape(B, -1) / 16
    mean, variance = averages(state)["mean_ema"], averages(state)["var_ema"]
    scaled = (flat - mean) / np.sqrt(variance + EPSILON)
    logits = scaled @ np.asarray(params["linear"]["w"], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -log_p[np.arange(B), np.asarray(rows["label"])].mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    right = (logits.argmax(1) == np.asarray(rows["label"])).mean()
    np.testing.assert_allclose(aux["accuracy"], right)


def test_training_loss_normalises_with_the_batch(start):
    task, params, state, batches = start
    once, _ = task.inner.loss_with_state(params, state, KEY, batches[0, 0])
    _, moved = task.loss_with_state(params, state, KEY, batches)
    again, _ = task.inner.loss_with_state(params, moved, KEY, batches[0, 0])
    np.testing.assert_allclose(once, again, rtol=1e-6)


@pytest.mark.parametrize("name", ["LocalSGD", "DataParallelSGD", "LOptA"])
def test_state_comes_out_of_whole_runs(family, name):
    candidate = (
        comm_lopt.hand_designed(name)
        if name != "LOptA"
        else comm_lopt.learned(
            comm_lopt.LOptA(hidden_size=4),
            comm_lopt.LOptA(hidden_size=4).init(KEY),
            local_learning_rate=RATE,
        )
    )
    problem = comm_lopt.meta_test.Problem(family.inner, K, H, 10)
    curves = comm_lopt.meta_test.run(problem, candidate, [0])
    # With the averages of round 0 (variance 0) activations would be 300 times too large.
    assert curves.heldout_loss[0, 0, -1] < 4
    floats = 64 * 10 + 10 + 2 * 64 + 4 * 64
    assert curves.bytes_per_round == (4 * floats, 4 * floats)


def test_normalizer_caps_a_loss_at_half_more_than_that_of_guessing(start):
    cap = 1.5 * np.log(10)
    losses = jnp.asarray([0.5, cap - 0.1, cap + 0.1, 40.0, np.inf, np.nan], jnp.float32)
    for task in (start[0], start[0].inner):
        capped = task.normalizer(losses)
        np.testing.assert_allclose(capped, [0.5, cap - 0.1, *[cap] * 4], rtol=1e-6)


def test_network_without_state_has_none(family):
    task = comm_lopt.ImageClassificationTask(digits_datasets(B), comm_lopt.mlp((4,)), "plain")
    params, state = task.init_with_state(KEY)
    assert state is None
    indices = jnp.arange(B, dtype=jnp.int32)
    loss, state = task.loss_with_state(params, None, KEY, indices)
    assert state is None
    np.testing.assert_allclose(loss, task.loss(params, KEY, indices))


def test_dropout_differs_between_workers_and_steps():
    masks = []

    def dropping(images, num_classes, is_training):
        kept = hk.dropout(hk.next_rng_key(), 0.5, jnp.ones(64)) if is_training else jnp.ones(64)
        jax.debug.callback(lambda mask: masks.append(tuple(np.asarray(mask) > 0)), kept)
        return hk.Linear(num_classes)(images.reshape(images.shape[0], -1) * kept)

    task = comm_lopt.ImageClassificationTask(digits_datasets(B), dropping, "dropping")
    inner = comm_lopt.upstream.single_task_to_family(task)
    family = comm_lopt.LocalSGDTaskFamily(inner, K, H, comm_lopt.local_sgd(RATE))
    wrapped = family.task_fn(family.sample(KEY))
    params, state = wrapped.init_with_state(KEY)
    masks.clear()
    wrapped.loss_with_state(params, state, KEY, next(family.datasets.train))
    jax.effects_barrier()
    assert len(set(masks)) == K * H


def test_what_is_differentiated_with_metrics_is_training_and_what_is_not_evaluates(start):
    task, params, state, batches = start
    _, state = task.loss_with_state(params, state, KEY, batches)
    inner, batch = task.inner, batches[0, 0]

    def with_metrics(params):
        loss, new_state, metrics = inner.loss_with_state_and_aux(params, state, KEY, batch)
        return loss, (new_state, metrics)

    def training(params):
        return inner.loss_with_state(params, state, KEY, batch)

    (loss, (new_state, metrics)), gradient = jax.jit(
        jax.value_and_grad(with_metrics, has_aux=True)
    )(params)
    (expected, expected_state), expected_gradient = jax.value_and_grad(training, has_aux=True)(
        params
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert_trees_close(new_state, expected_state)
    assert_trees_close(gradient, expected_gradient)
    assert 0.0 <= float(metrics["accuracy"]) <= 1.0
    evaluated, (same_state, _) = with_metrics(params)
    assert_trees_close(same_state, state, rtol=0, atol=0)
    assert abs(float(evaluated) - float(loss)) > 1e-3


@pytest.mark.skipif(comm_lopt.upstream.FLAVOUR != "main", reason="0.0.1's knows no model state")
def test_reparametrised_task_of_upstream_is_trained_with_the_batchs_statistics(start):
    from learned_optimization.tasks.task_augmentation import ReparamWeights

    task, params, state, batches = start
    inner, batch = task.inner, batches[0, 0]
    scales = jax.tree.map(lambda p: jnp.full(p.shape, 2.0), params)
    reparametrised = ReparamWeights(inner, scales)

    def loss(params):
        return reparametrised.loss_with_state(params, state, KEY, batch)

    halved = jax.tree.map(lambda p: p / 2, params)
    (value, new_state), _ = jax.value_and_grad(loss, has_aux=True)(halved)
    expected, expected_state = inner.loss_with_state(params, state, KEY, batch)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert_trees_close(new_state, expected_state)
