"""Small tasks whose gradients the tests know in closed form, in plain NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from comm_lopt.upstream import Datasets, Task

FEATURES, CLASSES = 5, 3


class SoftmaxRegression(Task):
    """Mean cross-entropy of softmax(x w + b); a batch is {"x": [B, 5], "y": [B]}."""

    def init(self, key):
        return {
            "w": jax.random.normal(key, (FEATURES, CLASSES)),
            "b": jnp.asarray([0.1, -0.2, 0.3], jnp.float32),
        }

    def loss(self, params, key, data):
        return self.loss_and_aux(params, key, data)[0]

    def loss_and_aux(self, params, key, data):
        logits = data["x"] @ params["w"] + params["b"][None]
        log_p = jax.nn.log_softmax(logits)
        losses = -jnp.take_along_axis(log_p, data["y"][:, None], axis=1)
        return jnp.mean(losses), {"mean_logit": jnp.mean(logits)}


def softmax_batches(shape, batch_size, seed=0):
    """Random batches [*shape, B, ...] of `SoftmaxRegression`."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(*shape, batch_size, FEATURES)).astype(np.float32),
        "y": rng.integers(0, CLASSES, (*shape, batch_size)).astype(np.int32),
    }


def softmax_loss_and_gradient(params, batch):
    """Loss and gradient of `SoftmaxRegression`, by hand and in float64."""
    x, y = np.asarray(batch["x"], np.float64), np.asarray(batch["y"])
    logits = x @ np.asarray(params["w"], np.float64) + np.asarray(params["b"], np.float64)
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    p = exponentials / exponentials.sum(1, keepdims=True)
    loss = -np.mean(np.log(p[np.arange(len(y)), y]))
    error = (p - np.eye(CLASSES)[y]) / len(y)
    return loss, {"w": x.T @ error, "b": error.sum(0)}


def pick(batches, k, h):
    """The batch of worker k at local step h."""
    return {name: value[k, h] for name, value in batches.items()}


def numpy_worker(params, batches, k, num_local_steps, learning_rate):
    """Weights and losses of worker k after H plain SGD steps."""
    weights = {name: np.asarray(value, np.float64) for name, value in params.items()}
    losses = []
    for h in range(num_local_steps):
        loss, gradient = softmax_loss_and_gradient(weights, pick(batches, k, h))
        losses.append(loss)
        weights = {n: weights[n] - learning_rate * gradient[n] for n in weights}
    return weights, losses


def host_datasets(make_batch):
    """Upstream data sets of plain host iterators: batch i of split s is `make_batch(s, i)`."""

    def stream(split):
        return (make_batch(split, i) for i in itertools.count())

    return Datasets(*(stream(split) for split in range(4)))


def assert_trees_close(actual, expected, rtol=1e-5, atol=1e-6):
    """Every leaf of `actual` is close to that of `expected`; structures are equal."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def assert_trees_equal(actual, expected):
    """Every leaf of `actual` has the bits of that of `expected`."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def write_fashion_mnist(folder, num_train, num_test, size=28, labels=(), num_labels=None):
    """Writes four IDX files like Fashion-MNIST's; returns all images and labels.

    Args:
      folder: where.
      num_train: training images.
      num_test: test images.
      size: pixels along a side.
      labels: the first labels; the others are random.
      num_labels: labels in the training file, if not one an image.
    """
    rng = np.random.default_rng(0)
    total = num_train + num_test
    all_images = rng.integers(0, 256, (total, size, size)).astype(np.uint8)
    all_labels = rng.integers(0, 10, total).astype(np.uint8)
    all_labels[: len(labels)] = labels
    parts = {"train": slice(0, num_train), "t10k": slice(num_train, total)}
    for name, part in parts.items():
        for kind, array in (("images-idx3", all_images[part]), ("labels-idx1", all_labels[part])):
            if kind == "labels-idx1" and name == "train":
                array = array[:num_labels]
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{name}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return all_images, all_labels
