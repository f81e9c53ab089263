"""Prediction of classes by a Haiku network, on any of comm_lopt's data sets."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.tasks.gradient_of import Evaluated, with_gradient
from comm_lopt.tasks.networks.convolution import convolutions_for_device
from comm_lopt.upstream import Task

__all__ = ["Network", "SupervisedTask"]

PyTree = Any

Network = Callable[[jax.Array, int, bool], jax.Array]
"""A Haiku function of inputs [B, ...], the number of classes and whether it is training, that
returns logits [B, ..., classes]. It may have model state (BatchNorm) and use random numbers."""


class SupervisedTask(Task, abc.ABC):
    """Mean softmax cross-entropy, in nats, of a network's logits against integer targets.

    Batches are what `datasets` makes them; the examples are gathered inside the loss. The model
    state is None for a network without one.

    Training and evaluation differ: `loss` and `loss_with_state` train (BatchNorm uses the
    batch's statistics and updates its averages, dropout drops); `loss_and_aux` and
    `loss_with_state_and_aux` evaluate (BatchNorm uses its averages, nothing is dropped), unless
    they are differentiated.

    Args:
      datasets: the data; `extra_info` has `num_classes`.
      network: from inputs [B, ...] to logits [B, ..., classes]; see `Network`.
      name: the task's name.
    """

    def __init__(self, datasets: ExampleDatasets, network: Network, name: str):
        self.datasets = datasets
        self._name = name
        self._num_classes: int = datasets.extra_info["num_classes"]

        def model(inputs: jax.Array, is_training: bool) -> jax.Array:
            with convolutions_for_device():
                return network(inputs, self._num_classes, is_training)

        self._model: Any = hk.transform_with_state(model)

    def examples(self, data: PyTree) -> dict[str, jax.Array]:
        """Returns the examples of a batch: arrays [B, ...] by key."""
        return self.datasets.gather(data)

    @abc.abstractmethod
    def inputs_and_targets(self, examples: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Returns what the network reads [B, ...] and the targets [B, ...], integers."""

    def metrics(self, loss: jax.Array, right: jax.Array) -> dict[str, jax.Array]:
        """What evaluation reports beside the loss: scalars, {"accuracy": part predicted right}."""
        del loss
        return {"accuracy": right}

    @property
    def name(self) -> str:
        """The name that it was given."""
        return self._name

    def init(self, key: jax.Array) -> PyTree:
        """Initial parameters alone: a tree of arrays."""
        return self.init_with_state(key)[0]

    def init_with_state(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        """Initial parameters and model state, trees of arrays; None for a network without state."""
        shapes = self.datasets.abstract_examples()
        # One example is enough, and its values do not matter.
        example = {key: jnp.zeros((1, *s.shape[1:]), s.dtype) for key, s in shapes.items()}
        params, state = self._model.init(key, self.inputs_and_targets(example)[0], True)
        return params, state or None

    def loss(self, params: PyTree, key: jax.Array, data: PyTree) -> jax.Array:
        """A scalar: the loss over the batch `data` ([B, ...]), of a network without model state."""
        return self.loss_with_state(params, None, key, data)[0]

    def loss_with_state(
        self, params: PyTree, state: PyTree, key: jax.Array, data: PyTree
    ) -> tuple[jax.Array, PyTree]:
        """Trains on one batch.

        Args:
          params: a tree of arrays, as from `init_with_state`.
          state: the model state, a tree, or None.
          key: random key, for what the network draws.
          data: a batch of `datasets`: indices [B], or a tree of arrays [B, ...].

        Returns:
          The mean training loss, a scalar in nats, and the new model state, a tree like `state`.
        """
        loss, _, state = self._evaluate(params, state, key, data, is_training=True)
        return loss, state

    def loss_and_aux(
        self, params: PyTree, key: jax.Array, data: PyTree
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Evaluates without model state: scalars; see `loss_with_state_and_aux`."""
        loss, _, aux = self.loss_with_state_and_aux(params, None, key, data)
        return loss, aux

    def loss_with_state_and_aux(
        self, params: PyTree, state: PyTree, key: jax.Array, data: PyTree
    ) -> tuple[jax.Array, PyTree, dict[str, jax.Array]]:
        """Evaluates on one batch.

        Differentiated, it is `loss_with_state`, with the metrics of training: upstream's
        reparametrised tasks train through this call.

        Args:
          params: a tree of arrays, as from `init_with_state`.
          state: the model state, a tree, or None.
          key: random key.
          data: a batch of `datasets`: indices [B], or a tree of arrays [B, ...].

        Returns:
          The mean loss, a scalar in nats; `state` as it was; and `metrics`, scalars by name.
        """

        def evaluate(params: PyTree, rest: tuple) -> Evaluated:
            state, key, data = rest
            loss, right, _ = self._evaluate(params, state, key, data, is_training=False)
            return loss, (state, self.metrics(loss, right))

        def training_loss(params: PyTree, rest: tuple) -> Evaluated:
            state, key, data = rest
            loss, right, state = self._evaluate(params, state, key, data, is_training=True)
            return loss, (state, self.metrics(loss, right))

        train = jax.value_and_grad(training_loss, has_aux=True)
        loss, (state, metrics) = with_gradient(evaluate, train, params, (state, key, data))
        return loss, state, metrics

    def normalizer(self, loss: jax.Array) -> jax.Array:
        """Caps a loss, a scalar, at 1.5 times that of guessing: divergence has a finite price."""
        chance = jnp.log(jnp.float32(self._num_classes))
        return jnp.clip(jnp.nan_to_num(loss, nan=jnp.inf), 0.0, 1.5 * chance)

    def _evaluate(
        self, params: PyTree, state: PyTree, key: jax.Array, data: PyTree, is_training: bool
    ) -> tuple[jax.Array, jax.Array, PyTree]:
        inputs, targets = self.inputs_and_targets(self.examples(data))
        logits, state = self._model.apply(params, state or {}, key, inputs, is_training)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        right = jnp.mean(
            (jnp.argmax(logits, axis=-1).astype(targets.dtype) == targets).astype(jnp.float32)
        )
        return jnp.mean(losses), right, state or None
