"""A loop of rounds of one's own, around any loss of a tree of parameters: K workers."""

import jax
import jax.numpy as jnp
import optax

import comm_lopt

__all__ = ["train"]


def train(loss_fn, params, batches, name="lopt-r-1"):
    """Losses of each round; `batches` yields trees of arrays [K, H, ...]."""
    pretrained = comm_lopt.load(name)
    outer = pretrained.transformation()
    state = outer.init(params)

    def local_steps(params, rate, batches):
        def step(params, batch):
            loss, gradient = jax.value_and_grad(loss_fn)(params, *batch)
            return jax.tree.map(lambda p, g: p - rate * g, params, gradient), loss

        after, losses = jax.lax.scan(step, params, batches)
        return jax.tree.map(jnp.subtract, params, after), (losses.mean(), losses[0])

    @jax.jit
    def one_round(params, state, batches):
        rate = pretrained.card.recommended.local_learning_rate * comm_lopt.local_rate_of(state)
        deltas, losses = jax.vmap(local_steps, in_axes=(None, None, 0))(params, rate, batches)
        # What is communicated.
        delta, (loss, start_loss) = jax.tree.map(lambda x: x.mean(0), (deltas, losses))
        told = {"value": loss, "start_value": start_loss}
        updates, state = outer.update(delta, state, params, **told)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for batch in batches:
        params, state, loss = one_round(params, state, batch)
        losses.append(float(loss))
    return losses
