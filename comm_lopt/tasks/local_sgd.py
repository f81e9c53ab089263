"""Local SGD as a task family: wraps any task family, and its gradient is the pseudo-gradient."""

from __future__ import annotations

from typing import Any

import gin
import jax
import jax.numpy as jnp
import optax

from comm_lopt.checks import require_at_least_one
from comm_lopt.data.rounds import round_datasets
from comm_lopt.round_state import RoundState
from comm_lopt.tasks.local_optimizers import local_sgd
from comm_lopt.tasks.local_round import local_round
from comm_lopt.upstream import Datasets, Task, TaskFamily

__all__ = ["LocalSGDTask", "LocalSGDTaskFamily", "mean_over_batches"]

PyTree = Any


@jax.custom_vjp
def _with_gradient(params: PyTree, value: jax.Array, gradient: PyTree) -> jax.Array:
    """Returns `value`, with `gradient` as its gradient with respect to `params`."""
    del params, gradient
    return value


def _with_gradient_forward(params: PyTree, value: jax.Array, gradient: PyTree) -> tuple:
    del params
    return value, gradient


def _with_gradient_backward(gradient: PyTree, cotangent: jax.Array) -> tuple:
    scaled = jax.tree.map(lambda g: g * cotangent.astype(g.dtype), gradient)
    return scaled, None, None


_with_gradient.defvjp(_with_gradient_forward, _with_gradient_backward)


def mean_over_batches(
    task: Task,
    params: PyTree,
    model_state: PyTree,
    key: jax.Array,
    batches: PyTree,
    num_batches: int,
) -> tuple[jax.Array, PyTree, PyTree]:
    """Loss, model states and metrics of the plain inner task over all K·H batches.

    Args:
      task: the inner task.
      params: weights.
      model_state: model state.
      key: random key, split over the batches.
      batches: tree of arrays [K, H, ...].
      num_batches: K·H.

    Returns:
      mean loss; model states with a leading K·H; mean of each auxiliary value.
    """
    flat = jax.tree.map(lambda leaf: leaf.reshape((-1, *leaf.shape[2:])), batches)
    keys = jax.random.split(key, num_batches)

    def one_batch(batch_key: jax.Array, batch: PyTree) -> tuple:
        return task.loss_with_state_and_aux(params, model_state, batch_key, batch)

    losses, states, aux = jax.vmap(one_batch)(keys, flat)
    return jnp.mean(losses), states, jax.tree.map(lambda a: jnp.mean(a, axis=0), aux)


class LocalSGDTask(Task):
    """One round of local SGD on an inner task, in the form of an upstream `Task`.

    The loss is the mean training loss over the K·H local steps; its gradient with respect to
    the parameters is the pseudo-gradient Δ (before − after, mean over workers), not the
    derivative of that mean. Whatever descends on gradients therefore descends on Δ. Meta-
    gradients by differentiating *through* the round are not defined by this; PES and ES, which
    only look at losses, are what the family is for.
    """

    def __init__(self, family: LocalSGDTaskFamily, inner: Task):
        self.inner = inner
        self.datasets = family.datasets
        self._family = family

    @property
    def name(self) -> str:
        return f"LocalSGD_{self.inner.name}"

    def init(self, key: jax.Array) -> PyTree:
        return self.inner.init(key)

    def init_with_state(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        return self.inner.init_with_state(key)

    def normalizer(self, loss: jax.Array) -> jax.Array:
        return self.inner.normalizer(loss)

    def loss(self, params: PyTree, key: jax.Array, data: PyTree) -> jax.Array:
        """Mean training loss of one round from stateless `params`; gradient Δ."""
        return self.loss_with_state(params, None, key, data)[0]

    def loss_with_state(
        self, params: PyTree, state: PyTree, key: jax.Array, data: PyTree
    ) -> tuple[jax.Array, PyTree]:
        """Runs one round.

        Args:
          params: global weights W at the round's start.
          state: model state S at the round's start, or None.
          key: random key of the round.
          data: tree of arrays [K, H, ...].

        Returns:
          mean over the K·H local steps of the training loss, with gradient Δ; and the new
          model state, inside a `RoundState` when the family has `worker_deltas=True`.
        """
        family = self._family
        fixed = jax.lax.stop_gradient(params)
        out = local_round(
            self.inner,
            fixed,
            state,
            key,
            data,
            family.local_opt,
            family.num_workers,
            family.num_local_steps,
        )
        loss = _with_gradient(params, jnp.mean(out.losses), out.delta)
        if family.worker_deltas:
            return loss, RoundState(out.model_state, out.worker_deltas)
        return loss, out.model_state

    def loss_and_aux(
        self, params: PyTree, key: jax.Array, data: PyTree
    ) -> tuple[jax.Array, PyTree]:
        """Evaluation without model state; see `loss_with_state_and_aux`."""
        loss, _, aux = self.loss_with_state_and_aux(params, None, key, data)
        return loss, aux

    def loss_with_state_and_aux(
        self, params: PyTree, state: PyTree, key: jax.Array, data: PyTree
    ) -> tuple[jax.Array, PyTree, PyTree]:
        """Evaluates: the inner task's loss at `params` over all K·H·B examples.

        No local step is taken and the model state comes back as it was, so that upstream's
        held-out meta-objective measures the weights that the global optimizer produced.

        Returns:
          mean loss, `state` unchanged, mean of each auxiliary value.
        """
        loss, _, aux = mean_over_batches(
            self.inner, params, state, key, data, self._family.batches_per_round
        )
        return loss, state, aux


@gin.configurable(module="comm_lopt")
class LocalSGDTaskFamily(TaskFamily):
    """Wraps a task family so that one training step is one communication round.

    Args:
      task_family: any upstream task family; its batches may have any structure.
      num_workers: K.
      num_local_steps: H.
      local_opt: optimizer of the local steps; `local_sgd()` with its gin bindings if None.
      worker_deltas: also hand the K worker deltas to the optimizer (LAgg needs them), through
        the model state; see `RoundState`.

    Raises:
      ValueError: K or H below 1.
      TypeError: `task_family` is no `TaskFamily`, or `local_opt` no optax transformation.
    """

    def __init__(
        self,
        task_family: TaskFamily,
        num_workers: int = 8,
        num_local_steps: int = 4,
        local_opt: optax.GradientTransformation | None = None,
        worker_deltas: bool = False,
    ):
        if not isinstance(task_family, TaskFamily):
            raise TypeError(
                f"task_family={task_family!r} is not a TaskFamily; turn a single Task into one "
                "with learned_optimization.tasks.base.single_task_to_family(task)."
            )
        if local_opt is None:
            local_opt = local_sgd()
        if not isinstance(local_opt, optax.GradientTransformation):
            raise TypeError(
                f"local_opt={local_opt!r} is not an optax.GradientTransformation; pass "
                "comm_lopt.local_sgd(learning_rate) or any optax optimizer."
            )
        self.inner = task_family
        self.num_workers = require_at_least_one("num_workers", num_workers, "workers")
        self.num_local_steps = require_at_least_one(
            "num_local_steps", num_local_steps, "local steps"
        )
        self.local_opt = local_opt
        self.worker_deltas = worker_deltas
        self.datasets: Datasets | None = round_datasets(
            task_family.datasets, self.num_workers, self.num_local_steps
        )

    @property
    def name(self) -> str:
        return f"LocalSGD_{self.inner.name}"

    @property
    def batches_per_round(self) -> int:
        """K·H."""
        return self.num_workers * self.num_local_steps

    def sample(self, key: jax.Array) -> PyTree:
        return self.inner.sample(key)

    def task_fn(self, cfg: PyTree) -> LocalSGDTask:
        return LocalSGDTask(self, self.inner.task_fn(cfg))
