"""MLPs of sampled size equal plain MLPs of that size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import comm_lopt
from comm_lopt.data.sources.digits import digits_datasets

KEY = jax.random.PRNGKey(3)
B, MAX_WIDTH, MAX_DEPTH = 7, 64, 3


@pytest.fixture(scope="module")
def family():
    members = (digits_datasets(B), digits_datasets(B, seed=5))
    return comm_lopt.sampled_mlp(widths=(4, MAX_WIDTH), depths=(1, MAX_DEPTH), members=members)


def config(width, depth, dataset):
    values = {"width": width, "depth": depth, "dataset": dataset}
    return {name: jnp.asarray(value, jnp.int32) for name, value in values.items()}


def plain_loss(params, rows, width, depth):
    """Loss of a plain MLP with the used part of the weights."""
    layers = [params["linear" if i == 0 else f"linear_{i}"] for i in range(MAX_DEPTH + 1)]
    h = np.asarray(rows["image"], np.float64).reshape(B, -1)
    for number, layer in enumerate(layers[:depth]):
        w = np.asarray(layer["w"], np.float64)[:, :width]
        w = w if number == 0 else w[:width]
        h = np.maximum(h @ w + np.asarray(layer["b"], np.float64)[:width], 0)
    last = layers[-1]
    logits = h @ np.asarray(last["w"], np.float64)[:width] + np.asarray(last["b"], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log_p[np.arange(B), np.asarray(rows["label"])].mean()


@pytest.mark.parametrize(("width", "depth", "dataset"), [(4, 1, 0), (9, 2, 1), (64, 3, 0)])
def test_task_is_the_plain_mlp_of_its_size_on_its_data(family, width, depth, dataset):
    task = family.task_fn(config(width, depth, dataset))
    batch = next(family.datasets.train)
    params = task.init(KEY)
    rows = family.datasets.members[dataset].gather(batch[dataset])
    rows = {**rows, "image": np.asarray(rows["image"]) / 16}
    expected = plain_loss(params, rows, width, depth)
    np.testing.assert_allclose(task.loss(params, KEY, batch), expected, rtol=1e-5)


@pytest.mark.parametrize(("width", "depth"), [(4, 1), (9, 2), (64, 3)])
def test_what_is_not_used_is_zero_and_has_no_gradient(family, width, depth):
    task = family.task_fn(config(width, depth, 0))
    params = task.init(KEY)
    gradient = jax.grad(task.loss)(params, KEY, next(family.datasets.train))
    for tree in (params, gradient):
        for number in range(MAX_DEPTH):
            w = tree["linear" if number == 0 else f"linear_{number}"]["w"]
            used = 0 if number >= depth else width
            assert not w[:, used:].any()
            if number:
                assert not w[used:].any()
    used = np.asarray(params["linear"]["w"])[:, :width]
    np.testing.assert_allclose(used.std() * np.sqrt(64), 0.88, rtol=0.25)


def test_samples_cover_the_ranges(family):
    configs = jax.vmap(family.sample)(jax.random.split(KEY, 2000))
    for name, low, high in (("width", 4, 64), ("depth", 1, 3), ("dataset", 0, 1)):
        values = np.asarray(configs[name])
        assert (values.min(), values.max()) == (low, high)
    # Log-uniform: as many tasks below the geometric mean as above.
    assert abs(np.mean(np.asarray(configs["width"]) < 16) - 0.5) < 0.05


def test_tasks_of_different_sizes_run_side_by_side(family):
    configs = jax.vmap(family.sample)(jax.random.split(KEY, 4))
    batch = next(family.datasets.train)

    def loss(cfg):
        task = family.task_fn(cfg)
        return task.loss(task.init(KEY), KEY, batch)

    together = jax.vmap(loss)(configs)
    alone = [loss(jax.tree.map(lambda leaf, i=i: leaf[i], configs)) for i in range(4)]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [({"widths": (0, 4)}, "widths=0"), ({"depths": (3, 2)}, r"depths=\(3, 2\) is empty")],
)
def test_empty_ranges_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        comm_lopt.sampled_mlp(members=(digits_datasets(B),), **arguments)
