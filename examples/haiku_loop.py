"""A shipped learned optimizer with Haiku: one worker, and K of them."""

import haiku as hk
import jax
import jax.numpy as jnp
import optax
import rounds
from data import batches

import comm_lopt

network = hk.without_apply_rng(hk.transform(lambda images: hk.nets.MLP([32, 10])(images)))


def loss_fn(params, images, labels):
    logits = network.apply(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def one_worker(num_steps=400, h=8):
    pretrained = comm_lopt.load("lopt-r-1")
    optimizer = comm_lopt.every_h_steps(optax.sgd(0.1), pretrained.transformation(), h)
    params = network.init(jax.random.key(0), jnp.zeros((1, 64)))
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
    params = network.init(jax.random.key(0), jnp.zeros((1, 64)))
    return rounds.train(loss_fn, params, batches(num_rounds, k, h))


if __name__ == "__main__":
    print("one worker, last loss:", one_worker()[-1])
    print("four workers, last loss:", workers()[-1])
