"""A shipped learned optimizer with Flax NNX: one worker, and K of them."""

import jax
import optax
import rounds
from data import batches
from flax import nnx

import comm_lopt


class MLP(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 32, rngs=rngs)
        self.out = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, images):
        return self.out(jax.nn.relu(self.hidden(images)))


def loss_of(model, images, labels):
    return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()


def one_worker(num_steps=400, h=8):
    pretrained = comm_lopt.load("lopt-r-1")
    model = MLP(nnx.Rngs(0))
    every_step = comm_lopt.every_h_steps(optax.sgd(0.1), pretrained.transformation(), h)
    optimizer = nnx.Optimizer(model, every_step, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, images, labels):
        loss, gradient = nnx.value_and_grad(loss_of)(model, images, labels)
        optimizer.update(model, gradient, value=loss)
        return loss

    return [float(step(model, optimizer, *batch)) for batch in batches(num_steps)]


def workers(num_rounds=50, k=4, h=8):
    structure, params = nnx.split(MLP(nnx.Rngs(0)), nnx.Param)

    def loss_fn(params, images, labels):
        return loss_of(nnx.merge(structure, params), images, labels)

    return rounds.train(loss_fn, params, batches(num_rounds, k, h))


if __name__ == "__main__":
    print("one worker, last loss:", one_worker()[-1])
    print("four workers, last loss:", workers()[-1])
