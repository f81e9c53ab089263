"""Local SGD as a task family: wraps any task family, and its gradient is the pseudo-gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
import optax

from comm_lopt.checks import require_at_least_one
from comm_lopt.data.partition import Partition
from comm_lopt.data.rounds import round_datasets
from comm_lopt.round_state import RoundState
from comm_lopt.tasks.local_optimizers import local_sgd
from comm_lopt.tasks.local_round import local_round
from comm_lopt.upstream import Datasets, Task, TaskFamily

__all__ = ["LocalSGDTask", "LocalSGDTaskFamily", "over_batches"]

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


def over_batches(
    function: Callable[[jax.Array, PyTree], PyTree],
    key: jax.Array,
    batches: PyTree,
    num_batches: int,
) -> PyTree:
    """Applies a function of (key, batch) to all K·H batches of a round.

    Args:
      function: of a random key and a batch of the inner task.
      key: random key, split over the batches.
      batches: tree of arrays [K, H, ...].
      num_batches: K·H.

    Returns:
      What the function returns, with a leading K·H.
    """
    flat = jax.tree.map(lambda leaf: leaf.reshape((-1, *leaf.shape[2:])), batches)
    return jax.vmap(function)(jax.random.split(key, num_batches), flat)


class LocalSGDTask(Task):
    """One round of local SGD on an inner task, in the form of an upstream `Task`.

    The loss is the mean training loss over the K·H local steps; its gradient with respect to
    the parameters is the pseudo-gradient Δ (before − after, mean over workers), not the
    derivative of that mean. Whatever descends on gradients therefore descends on Δ. Meta-
    gradients by differentiating *through* the round are not defined by this; PES and ES, which
    only look at losses, are what the family is for.
    """

    def __init__(
        self, family: LocalSGDTaskFamily, inner: Task, local_opt: optax.GradientTransformation
    ):
        self.inner = inner
        self.datasets = family.datasets
        self.local_opt = local_opt
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
            self.local_opt,
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

        def one_batch(batch_key: jax.Array, batch: PyTree) -> tuple[jax.Array, PyTree]:
            loss, _, aux = self.inner.loss_with_state_and_aux(params, state, batch_key, batch)
            return loss, aux

        out = over_batches(one_batch, key, data, self._family.batches_per_round)
        loss, aux = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), out)
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
      partition: divides the training examples among the workers, such as `DirichletParts(0.1)`;
        None lets every worker draw from all of them (the paper's setting).
      local_learning_rates: smallest and largest γ; each task then draws its own, log-uniformly,
        and takes its local steps with `local_sgd(γ)` and its other gin bindings.

    Raises:
      ValueError: K or H below 1, a worker's part smaller than a batch, rates that are no range
        above 0, or rates beside a `local_opt`.
      TypeError: `task_family` is no `TaskFamily`, or `local_opt` no optax transformation.
    """

    def __init__(
        self,
        task_family: TaskFamily,
        num_workers: int = 8,
        num_local_steps: int = 4,
        local_opt: optax.GradientTransformation | None = None,
        worker_deltas: bool = False,
        partition: Partition | None = None,
        local_learning_rates: Sequence[float] | None = None,
    ):
        if not isinstance(task_family, TaskFamily):
            raise TypeError(
                f"task_family={task_family!r} is not a TaskFamily; turn a single Task into one "
                "with learned_optimization.tasks.base.single_task_to_family(task)."
            )
        if local_learning_rates is not None:
            _check_rates(local_learning_rates, local_opt)
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
        self.partition = partition
        self.local_learning_rates = local_learning_rates
        self.datasets: Datasets | None = round_datasets(
            task_family.datasets, self.num_workers, self.num_local_steps, partition
        )

    @property
    def name(self) -> str:
        return f"LocalSGD_{self.inner.name}"

    @property
    def batches_per_round(self) -> int:
        """K·H."""
        return self.num_workers * self.num_local_steps

    def sample(self, key: jax.Array) -> PyTree:
        """Returns the inner family's configuration, with γ beside it if that is drawn."""
        if self.local_learning_rates is None:
            return self.inner.sample(key)
        inner_key, rate_key = jax.random.split(key)
        low, high = (jnp.log(jnp.float32(rate)) for rate in self.local_learning_rates)
        rate = jnp.exp(jax.random.uniform(rate_key, (), jnp.float32, low, high))
        return {"inner": self.inner.sample(inner_key), "local_learning_rate": rate}

    def task_fn(self, cfg: PyTree) -> LocalSGDTask:
        if self.local_learning_rates is None:
            return self._task(self.inner.task_fn(cfg), self.local_opt)
        local_opt = local_sgd(cfg["local_learning_rate"])
        return self._task(self.inner.task_fn(cfg["inner"]), local_opt)

    def _task(self, inner: Task, local_opt: optax.GradientTransformation) -> LocalSGDTask:
        return LocalSGDTask(self, inner, local_opt)


def _check_rates(rates: Sequence[float], local_opt: optax.GradientTransformation | None) -> None:
    if local_opt is not None:
        raise ValueError(
            f"local_learning_rates={rates} beside a local_opt, which has a rate of its own; pass "
            "one of the two."
        )
    if len(rates) != 2 or not 0 < rates[0] <= rates[1]:
        raise ValueError(
            f"local_learning_rates={rates} must be (smallest, largest), above 0; write for "
            "example (0.1, 1.0)."
        )
