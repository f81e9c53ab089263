"""One round of local SGD as a task, whose gradient is the pseudo-gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from comm_lopt.optimizers.local_rate import scaled_by
from comm_lopt.round_state import RoundState, model_state_of, round_state
from comm_lopt.tasks.compression import Residuals, no_residuals
from comm_lopt.tasks.gradient_of import Evaluated, once_differentiable, with_gradient
from comm_lopt.tasks.local_round import (
    RoundOutput,
    WorkersAt,
    WorkersOutput,
    local_steps,
    local_work,
    merged,
)
from comm_lopt.tasks.union import evaluate_round
from comm_lopt.upstream import Task

if TYPE_CHECKING:
    from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily

__all__ = ["LocalSGDTask", "RoundStart"]

PyTree = Any


class RoundStart(NamedTuple):
    """What a round starts with, taken from what the last one left and from its key."""

    model_state: PyTree
    key: jax.Array
    weights: jax.Array | None
    local_opt: optax.GradientTransformation
    local_opt_states: PyTree
    residuals: Residuals | None
    steered: bool


class LocalSGDTask(Task):
    """One round of local SGD on an inner task, in the form of an upstream `Task`.

    The loss is the mean training loss over the K·H local steps; its gradient with respect to
    the parameters is the pseudo-gradient Δ (before − after, mean over workers), not the
    derivative of that mean. Whatever descends on gradients therefore descends on Δ. Meta-
    gradients by differentiating *through* the round are not defined by this, and refused; PES and
    ES, which only look at losses, are what the family is for.

    Model state is the inner task's, or a `RoundState` where more is carried.
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
        return f"{self._family.kind}_{self.inner.name}"

    @property
    def num_local_optimizers(self) -> int:
        """How many local optimizers there are: K."""
        return self._family.num_workers

    def init(self, key: jax.Array) -> PyTree:
        return self.inner.init(key)

    def init_with_state(self, key: jax.Array) -> tuple[PyTree, PyTree]:
        params, state = self.inner.init_with_state(key)
        persists, residuals = self._family.local_state_persists, self._no_residuals(params)
        if not persists and residuals is None:
            return params, state
        opt_states = self._new_local_opt_states(params) if persists else None
        return params, RoundState(state, local_opt_states=opt_states, residuals=residuals)

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
          mean over the K·H local steps of the training loss, weighted as the workers are, with
          gradient Δ; and the new model state, inside a `RoundState` where the family hands on
          worker deltas, their squares, weights, local optimizer states or residuals.

        Raises:
          NotImplementedError: the round is differentiated through.
        """

        def train(params: PyTree, rest: tuple) -> tuple[Evaluated, PyTree]:
            return self._round(once_differentiable(params), *rest)

        return with_gradient(lambda *given: train(*given)[0], train, params, (state, key, data))

    def loss_and_aux(
        self, params: PyTree, key: jax.Array, data: PyTree
    ) -> tuple[jax.Array, PyTree]:
        """Evaluation without model state; see `loss_with_state_and_aux`."""
        loss, _, aux = self.loss_with_state_and_aux(params, None, key, data)
        return loss, aux

    def loss_with_state_and_aux(
        self, params: PyTree, state: PyTree, key: jax.Array, data: PyTree
    ) -> tuple[jax.Array, PyTree, PyTree]:
        """Evaluates; differentiated, it is the round that `loss_with_state` runs.

        Where its value alone is asked for, no local step is taken and the model state comes back
        as it was, so that upstream's held-out meta-objective measures the weights that the global
        rule produced: the inner task's loss at `params` over all K·H·B examples. Upstream also
        trains through this call (FullES, reparametrised tasks).

        Returns:
          mean loss, `state` (unchanged if evaluated), mean of each auxiliary value at `params`.
        """

        def evaluate(params: PyTree, rest: tuple) -> Evaluated:
            state, key, data = rest
            family, model_state = self._family, model_state_of(state)
            loss, aux = evaluate_round(
                self.inner, params, model_state, key, data, family.num_workers,
                family.num_local_steps,
            )  # fmt: skip
            return loss, (state, aux)

        def train(params: PyTree, rest: tuple) -> tuple[Evaluated, PyTree]:
            (loss, state), gradient = self._round(once_differentiable(params), *rest)
            _, (_, aux) = evaluate(params, rest)
            return (loss, (state, aux)), gradient

        loss, (state, aux) = with_gradient(evaluate, train, params, (state, key, data))
        return loss, state, aux

    def work(self, params: PyTree, state: PyTree, key: jax.Array, data: PyTree) -> WorkersOutput:
        """The first part of a round, in which nobody talks; arguments as of `loss_with_state`.

        A real run calls it and then `merge`, and gets what `loss_with_state` gives.
        """
        return self._work(self._start(params, state, key), params, data)

    def work_step(
        self,
        params: PyTree,
        state: PyTree,
        key: jax.Array,
        data: PyTree,
        step: jax.Array | int,
        at: WorkersAt | None,
    ) -> tuple[jax.Array, WorkersAt]:
        """One local step of `work`, for who wants to look up between them.

        Args:
          params: as for `work`, and so are `state`, `key` and `data`.
          state: see there.
          key: see there.
          data: see there.
          step: which one, from 0 on.
          at: where the workers stand; None before the first.

        Returns:
          The losses of the step, [K, 1], and where the workers stand after it; `work_done` makes of
          all H of them what `work` gives.
        """
        start, family = self._start(params, state, key), self._family
        keys = jax.random.split(start.key, (family.num_workers, family.num_local_steps))
        keys, batches = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, step, 1, axis=1), (keys, data)
        )
        return local_steps(
            self.inner, params, start.model_state, keys, batches, start.local_opt,
            start.local_opt_states, at,
        )  # fmt: skip

    def merge(
        self,
        params: PyTree,
        state: PyTree,
        key: jax.Array,
        work: WorkersOutput,
        present: jax.Array | None = None,
    ) -> tuple[jax.Array, PyTree, PyTree]:
        """The second part of a round, in which workers talk.

        Args:
          params: as for `work`, and so are `state` and `key`.
          state: see there.
          key: see there.
          work: of `work`.
          present: [K], 0 for workers that are absent although nobody planned it; None: nobody is.

        Returns:
          The mean training loss, the new model state, and the gradient Δ.
        """
        start = self._start(params, state, key)
        if present is not None:
            planned = start.weights
            start = start._replace(weights=present if planned is None else planned * present)
        out = self._merged(start, work)
        (loss, new_state), delta = self._end(out, start, tells_weights=present is not None)
        return loss, new_state, delta

    def _no_residuals(self, params: PyTree) -> Residuals | None:
        family = self._family
        return no_residuals(
            family.compression, params, family.num_workers, not family.worker_deltas
        )

    def _new_local_opt_states(self, params: PyTree) -> PyTree:
        count = self.num_local_optimizers
        return jax.tree.map(
            lambda leaf: jnp.broadcast_to(jnp.asarray(leaf), (count, *jnp.shape(leaf))),
            self.local_opt.init(params),
        )

    def _round(
        self, params: PyTree, state: PyTree, key: jax.Array, data: PyTree
    ) -> tuple[Evaluated, PyTree]:
        """((loss, new state), gradient) of a round."""
        start = self._start(params, state, key)
        return self._end(self._local_round(start, params, data), start)

    def _start(self, params: PyTree, state: PyTree, key: jax.Array) -> RoundStart:
        family, carried = self._family, round_state(state)
        weights_key, round_key = key, key
        if family.participation is not None:
            weights_key, round_key = jax.random.split(key)
        opt_states, residuals = carried.local_opt_states, carried.residuals
        rate = carried.local_rate if family.steered else None
        if residuals is None:
            residuals = self._no_residuals(params)
        if family.local_state_persists and opt_states is None:
            opt_states = self._new_local_opt_states(params)
        return RoundStart(
            carried.model_state,
            round_key,
            family.worker_weights(weights_key),
            scaled_by(self.local_opt, rate),
            opt_states,
            residuals,
            rate is not None,
        )

    def _end(
        self, out: RoundOutput, start: RoundStart, tells_weights: bool = False
    ) -> tuple[Evaluated, PyTree]:
        family = self._family
        new_state = RoundState(
            out.model_state,
            out.worker_deltas if family.worker_deltas else None,
            start.weights if tells_weights or family.participation is not None else None,
            out.local_opt_states if family.local_state_persists else None,
            out.worker_squares,
            residuals=out.residuals,
            start_loss=out.start_loss if start.steered else None,
        )
        if all(part is None for part in new_state[1:]):
            new_state = new_state.model_state
        return (out.loss, new_state), out.delta

    def _work(self, start: RoundStart, params: PyTree, data: PyTree) -> WorkersOutput:
        family = self._family
        return local_work(
            self.inner, params, start.model_state, start.key, data, start.local_opt,
            family.num_workers, family.num_local_steps, start.local_opt_states,
        )  # fmt: skip

    def _merged(self, start: RoundStart, work: WorkersOutput) -> RoundOutput:
        family = self._family
        return merged(
            work, start.weights, start.local_opt_states, family.worker_squares, family.compression,
            start.residuals, not family.worker_deltas,
        )  # fmt: skip

    def _local_round(self, start: RoundStart, params: PyTree, data: PyTree) -> RoundOutput:
        return self._merged(start, self._work(start, params, data))
