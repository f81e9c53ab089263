"""Noise-reuse evolution strategies: one perturbation for a whole inner problem."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import gin
import jax
import jax.numpy as jnp
from learned_optimization import summary, training
from learned_optimization.outer_trainers import common
from learned_optimization.outer_trainers.gradient_learner import (
    GradientEstimatorOut,
    GradientEstimatorState,
    UnrollInfo,
    WorkerWeights,
)
from learned_optimization.outer_trainers.truncated_pes import TruncatedPES

from comm_lopt.upstream._ready import FLAVOUR

__all__ = ["NRESState", "TruncatedNRES"]

PyTree = Any


@flax.struct.dataclass
class NRESState(GradientEstimatorState):
    """Where N inner problems stand between two estimates.

    Attributes:
      unrolls: upstream's states of the inner problems, [2, N, ...]: at θ + ε, and at θ − ε.
      perturbation: ε of each problem, a tree like theta of [N, ...].
      ended: [N], whether the problem begins afresh, with another ε, in the next step.
    """

    unrolls: PyTree
    perturbation: PyTree
    ended: jax.Array


@gin.configurable
class TruncatedNRES(TruncatedPES):
    """Estimates the meta-gradient by noise-reuse evolution strategies (NRES).

    Inner problem i draws εᵢ ~ N(0, σ²I) when it begins and keeps it until it ends, whatever
    number of truncations that takes; theta may change between them. It is unrolled at θ + εᵢ and at
    θ − εᵢ. Of a truncation, with mᵢₜ = 0 in the steps in which a problem begins afresh, which have
    no loss, and 1 in all others,

        g = 1 / (2 σ² Σᵢₜ mᵢₜ) · Σᵢₜ mᵢₜ (Lᵢₜ(θ + εᵢₜ) − Lᵢₜ(θ − εᵢₜ)) εᵢₜ

    where εᵢₜ is the perturbation of the problem to which step t belongs: where one ends inside a
    truncation, each loss goes with its own. The sum over an episode is what evolution strategies on
    the whole of it would give: of the loss smoothed by N(0, σ²I) it has no bias.

    Persistent evolution strategies (PES) draw in every truncation, and multiply by the sum of all
    draws since the problem began. Where losses are linear in d weights of theta, with gradient gⱼ
    with respect to the theta of truncation j, the covariance of one problem's estimate in its w-th
    truncation has the trace

        NRES: (d + 1) ‖Σⱼ gⱼ‖²        PES: w d Σⱼ ‖gⱼ‖² + ‖Σⱼ gⱼ‖²        (j = 1, ..., w)

    The first is never above the second, and as large only where all gⱼ are one: it is the lower
    the sooner a loss forgets the theta of long ago. The price: one problem's estimates, from one
    truncation to the next, have one ε.

    The arguments are those of upstream's `TruncatedPES`, as are gin's bindings of it.

    Source: Li, Harrison, Sohl-Dickstein, Smith, Metz, "Variance-Reduced Gradient Estimation via
    Noise-Reuse in Online Evolution Strategies" (NeurIPS 2023, arXiv 2304.12180).

    Raises:
      ValueError: main's `sign_delta_loss_scalar`, which is PES's alone.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        sign = getattr(self, "sign_delta_loss_scalar", None)
        if sign is not None:
            raise ValueError(f"sign_delta_loss_scalar={sign}: NRES has none; leave it None.")

    def init_worker_state(self, worker_weights: WorkerWeights, key: jax.Array) -> NRESState:
        """N inner problems, [2, N, ...], at their start, or somewhere inside as the settings say.

        Args:
          worker_weights: theta and the outer state.
          key: random key.
        """
        start = super().init_worker_state(worker_weights, key)
        num_tasks = jax.tree.leaves(start.accumulator)[0].shape[0]
        unrolls = jax.tree.map(lambda *signs: jnp.stack(signs), start.pos_state, start.neg_state)
        return NRESState(unrolls, start.accumulator, jnp.ones(num_tasks, bool))

    def compute_gradient_estimate(
        self,
        worker_weights: WorkerWeights,
        key: jax.Array,
        state: NRESState,
        with_summary: bool = False,
        datas_list: Sequence[Any] | None = None,
    ) -> tuple[GradientEstimatorOut, Mapping[str, jax.Array]]:
        """The estimate of one truncation.

        Args:
          worker_weights: theta and the outer state.
          key: random key of the truncation.
          state: where the inner problems stand.
          with_summary: compute the metrics; without it there are none.
          datas_list: batches, one item for each compiled call, in place of the task family's.

        Returns:
          Upstream's output, of which the loss is a scalar and the gradient a tree like theta; and
          its metrics, scalars by name.
        """
        outs, sums, metrics = [], [], []
        for number in range(self.trunc_length // self.steps_per_jit):
            datas = self._batches() if datas_list is None else datas_list[number]
            key, unroll_key = jax.random.split(key)
            # Weak types would have the first call compiled for itself.
            state = jax.tree.map(lambda x: jnp.asarray(x, x.dtype), state)
            state, out, weighted, metric = self._unroll(
                worker_weights.theta, worker_weights.outer_state, state, unroll_key, datas,
                with_summary=with_summary,
            )  # fmt: skip
            outs.append(out)
            sums.append(weighted)
            metrics += [jax.tree.map(lambda x, t=t: x[t], metric) for t in range(len(out.mask))]
        loss, gradient, info = _mean(outs, sums, self.std)
        return GradientEstimatorOut(loss, gradient, state, info), (
            summary.aggregate_metric_list(metrics) if with_summary else {}
        )

    def _batches(self) -> Any:
        """Batches of one compiled call, [steps_per_jit, N, ...]."""
        if FLAVOUR == "main":
            return self.truncated_step.get_batch(self.steps_per_jit)
        return training.get_batches(
            self.task_family,
            (self.steps_per_jit, self.num_tasks),
            self.train_and_meta,
            numpy=False,
        )

    @functools.partial(jax.jit, static_argnames=("self", "with_summary"))
    def _unroll(
        self,
        theta: PyTree,
        outer_state: Any,
        state: NRESState,
        key: jax.Array,
        datas: Any,
        *,
        with_summary: bool,
    ) -> tuple[NRESState, Any, PyTree, Mapping[str, jax.Array]]:
        """`steps_per_jit` steps of both signs.

        Returns:
          The new state; upstream's outputs of the steps, [steps, 2, N]; Σᵢₜ of each masked
          difference of losses times its ε, a tree like theta; metrics, [steps] each.
        """

        def step(carry: tuple[NRESState, PyTree], xs: Any) -> Any:
            (state, weighted), (key, data) = carry, xs
            draw_key, step_key = jax.random.split(key)
            # A problem that ended begins afresh in this very step.
            perturbation = jax.lax.cond(
                jnp.any(state.ended), self._redrawn, lambda *_: state.perturbation,
                draw_key, theta, state,
            )  # fmt: skip
            thetas = jax.tree.map(
                lambda t, e: jnp.stack([t[None] + e, t[None] - e]), theta, perturbation
            )
            unrolls, out, metrics = self._both_signs(
                thetas, state.unrolls, step_key, data, outer_state, with_summary
            )
            difference = jnp.where(out.mask[0], out.loss[0] - out.loss[1], 0.0)
            weighted = jax.tree.map(
                lambda total, e: total + jnp.sum(_like(difference, e) * e, axis=0),
                weighted,
                perturbation,
            )
            return (NRESState(unrolls, perturbation, out.is_done[0]), weighted), (out, metrics)

        start = (state, jax.tree.map(jnp.zeros_like, theta))
        keys = jax.random.split(key, self.steps_per_jit)
        (state, weighted), (out, metrics) = jax.lax.scan(step, start, (keys, datas))
        return state, out, weighted, metrics

    def _redrawn(self, key: jax.Array, theta: PyTree, state: NRESState) -> PyTree:
        """The perturbations, with new ones for the problems that ended."""
        drawn, _, _ = common.vector_sample_perturbations(theta, key, self.std, len(state.ended))
        return jax.tree.map(
            lambda new, old: jnp.where(_like(state.ended, old), new, old), drawn, state.perturbation
        )

    def _both_signs(
        self,
        thetas: PyTree,
        unrolls: PyTree,
        key: jax.Array,
        data: Any,
        outer_state: Any,
        with_summary: bool,
    ) -> tuple[PyTree, Any, Mapping[str, jax.Array]]:
        """One step of upstream's unroll at `thetas` [2, N, ...], with the same key and data."""
        num_tasks = jax.tree.leaves(thetas)[0].shape[1]
        static: tuple[Any, ...] = (self.truncated_step, 1, True) if FLAVOUR == "main" else (
            self.task_family, self.learned_opt, self.trunc_sched, num_tasks, 1,
            self.train_and_meta, self.stack_antithetic_samples, True,
        )  # fmt: skip

        def unroll(at: tuple[PyTree, PyTree], data: Any) -> Any:
            theta, state = at
            (state, out), metrics = common.truncated_unroll(
                *static, theta, key, state, jax.tree.map(lambda x: x[None], data), outer_state,
                with_summary=with_summary, sample_rng_key=key,
            )  # fmt: skip
            return state, jax.tree.map(lambda x: x[0], out), metrics

        if not self.stack_antithetic_samples:
            state, out, metrics = jax.lax.map(lambda sign: unroll(sign, data), (thetas, unrolls))
            return state, out, jax.tree.map(lambda x: x[0], metrics)
        twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), data)
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (thetas, unrolls))
        state, out, metrics = unroll(flat, twice)
        state, out = jax.tree.map(lambda x: x.reshape(2, num_tasks, *x.shape[1:]), (state, out))
        return state, out, metrics


@functools.partial(jax.jit, static_argnames="std")
def _mean(
    outs: Sequence[Any], sums: Sequence[PyTree], std: float
) -> tuple[jax.Array, PyTree, UnrollInfo]:
    """Meta-loss and meta-gradient of a truncation, and what upstream tells of the positive sign."""
    out = jax.tree.map(lambda *calls: jnp.concatenate(calls), *outs)
    # No step has a loss where every problem begins afresh in a truncation of one step.
    num_losses = jnp.maximum(jnp.sum(out.mask[:, 0], dtype=out.loss.dtype), 1)
    loss = jnp.sum(jnp.where(out.mask, out.loss, 0.0)) / (2 * num_losses)
    gradient = jax.tree.map(lambda *calls: sum(calls) / (2 * std**2 * num_losses), *sums)
    loss_info = jax.tree.map(
        lambda x: x[:, 0], (out.loss, out.iteration, out.task_param, out.is_done)
    )
    return loss, gradient, UnrollInfo(*loss_info)


def _like(vector: jax.Array, array: jax.Array) -> jax.Array:
    """A vector [N] with the rank of an array [N, ...]."""
    return vector.reshape(-1, *[1] * (array.ndim - 1))
