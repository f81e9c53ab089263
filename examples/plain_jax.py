"""A shipped learned optimizer in plain JAX: one worker, and K of them."""

import jax
import jax.numpy as jnp
import optax
import rounds
from data import batches

import comm_lopt


def init(key, sizes=(64, 32, 10)):
    keys = jax.random.split(key, len(sizes) - 1)
    he = jax.nn.initializers.he_normal()
    return [
        {"w": he(k, (n, m)), "b": jnp.zeros(m)}
        for k, n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def loss_fn(params, images, labels):
    hidden = jax.nn.relu(images @ params[0]["w"] + params[0]["b"])
    logits = hidden @ params[1]["w"] + params[1]["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def one_worker(num_steps=400, h=8):
    pretrained = comm_lopt.load("lopt-r-1")
    optimizer = comm_lopt.every_h_steps(optax.sgd(0.1), pretrained.transformation(), h)
    params = init(jax.random.key(0))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, images, labels):
        loss, gradient = jax.value_and_grad(loss_fn)(params, images, labels)
        updates, state = optimizer.update(gradient, state, params, value=loss)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for images, labels in batches(num_steps):
        params, state, loss = step(params, state, images, labels)
        losses.append(float(loss))
    return losses


def workers(num_rounds=50, k=4, h=8):
    params = init(jax.random.key(0))
    return rounds.train(loss_fn, params, batches(num_rounds, k, h))


if __name__ == "__main__":
    print("one worker, last loss:", one_worker()[-1])
    print("four workers, last loss:", workers()[-1])
