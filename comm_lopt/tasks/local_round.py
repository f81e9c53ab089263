"""The one local round: H local steps on each of K workers that do not talk to each other.

Meta-training, meta-testing and a real run all call `local_round`, or its two parts. Workers are
mapped with DrJAX: under a mesh that has an axis named `WORKER_AXIS` they are sharded along it,
without one they are vectorised on the device at hand.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import drjax
import jax
import jax.interpreters.pxla
import jax.numpy as jnp
import optax

from comm_lopt.precision import widened
from comm_lopt.tasks.averages import (
    is_on_one_device,
    mean_of_squares,
    mean_over_workers,
    over_leading_axis,
    tree_mean,
)
from comm_lopt.tasks.compression import Compression, Residuals, no_residuals, sent, sent_back
from comm_lopt.tasks.exchange import WORKER_AXIS
from comm_lopt.upstream import Task

__all__ = [
    "WORKER_AXIS",
    "RoundOutput",
    "WorkersAt",
    "WorkersOutput",
    "local_round",
    "local_steps",
    "local_work",
    "merged",
    "work_done",
]

PyTree = Any


class WorkersAt(NamedTuple):
    """Where each worker stands between two local steps.

    Attributes:
      params: like the parameters with a leading K.
      model_states: like the model state with a leading K.
      local_opt_states: [K, ...].
    """

    params: PyTree
    model_states: PyTree
    local_opt_states: PyTree


class WorkersOutput(NamedTuple):
    """What each worker has at the end of its local steps, before any of them talks.

    Attributes:
      losses: [K, H], training loss of each local step, before that step is taken.
      deltas: like the parameters with a leading K, of at least float32; before − after.
      model_states: like the model state with a leading K.
      local_opt_states: [K, ...].
    """

    losses: jax.Array
    deltas: PyTree
    model_states: PyTree
    local_opt_states: PyTree


class RoundOutput(NamedTuple):
    """What comes back from one local round.

    Attributes:
      loss: the training loss, mean over local steps and (weighted) over workers; a scalar.
      losses: [K, H], training loss of each local step, before that step is taken.
      delta: like the parameters, of at least float32; Δ = weights before the round − weights
        after it, the (weighted) mean over workers of the differences.
      worker_deltas: a tree of arrays [K, ...]; before − after of each worker, as received.
      model_state: a tree like the model state; floats averaged over workers, integers kept.
      local_opt_states: [K, ...], the local optimizer's state of each worker.
      worker_squares: q, of the shapes of `delta`, if asked for: the (weighted) mean over workers
        of the squares of their deltas.
      residuals: what error feedback has not sent yet, where deltas are compressed.
      start_loss: as `loss`, a scalar, of the first local step alone, at the round's weights.
    """

    loss: jax.Array
    losses: jax.Array
    delta: PyTree
    worker_deltas: PyTree
    model_state: PyTree
    local_opt_states: PyTree
    worker_squares: PyTree = None
    residuals: Residuals | None = None
    start_loss: jax.Array | None = None


def local_round(
    task: Task,
    params: PyTree,
    model_state: PyTree,
    key: jax.Array,
    batches: PyTree,
    local_opt: optax.GradientTransformation,
    num_workers: int,
    num_local_steps: int,
    weights: jax.Array | None = None,
    local_opt_states: PyTree = None,
    worker_squares: bool = False,
    compression: Compression | None = None,
    residuals: Residuals | None = None,
    mean_is_sent: bool = True,
) -> RoundOutput:
    """Runs H local steps on each of K workers, all from the same weights, and merges them.

    Worker k starts at W_0 = `params` and takes, for h = 0 ... H−1,

      g = ∇ loss(W_h; batch[k, h]),   W_{h+1} = W_h + local_opt(g),

    Δ_k = W_0 − W_H, Δ = Σ_k w_k Δ_k / Σ_k w_k and q = Σ_k w_k Δ_k² / Σ_k w_k. Every worker and
    every local step has its own random key. The steps are scanned, so that compile time does not
    depend on H. (Joseph et al. 2025, algorithm 1, lines 3 to 9.) It is `local_work` and then
    `merged`, which a real run calls one after the other.

    Args:
      task: gives `loss_with_state`.
      params: W_0, a tree of arrays.
      model_state: the task's model state, a tree of arrays (BatchNorm's averages, ...), or None.
      key: random key of the round.
      batches: tree of arrays [K, H, ...].
      local_opt: optimizer of the local steps.
      num_workers: K.
      num_local_steps: H.
      weights: w, [K], not negative: 0 for a worker that is absent, whose local optimizer state
        stays as it was; the numbers of examples for FedAvg; None for the plain mean. If all are 0
        nothing changes: Δ is 0.
      local_opt_states: [K, ...], states of the local optimizer that were kept from the round
        before; None starts it afresh.
      worker_squares: also compute q; on a mesh that is a second all-reduce of W's size.
      compression: what workers send in place of Δ_k; all of the above is then of Δ_k as received.
      residuals: of the round before, see `Compression`; None: 0. An absent worker keeps its own.
      mean_is_sent: False where every worker takes the mean itself, of all K messages, so that it
        need not be compressed.

    Returns:
      The round's losses, Δ, worker deltas, new model state and local optimizer states, and q.

    Raises:
      ValueError: a leaf of `batches` does not begin with [K, H], or workers cannot be divided
        among the devices of the mesh.
    """
    work = local_work(
        task, params, model_state, key, batches, local_opt, num_workers, num_local_steps,
        local_opt_states,
    )  # fmt: skip
    return merged(
        work, weights, local_opt_states, worker_squares, compression, residuals, mean_is_sent
    )


def local_work(
    task: Task,
    params: PyTree,
    model_state: PyTree,
    key: jax.Array,
    batches: PyTree,
    local_opt: optax.GradientTransformation,
    num_workers: int,
    num_local_steps: int,
    local_opt_states: PyTree = None,
) -> WorkersOutput:
    """The part of `local_round` in which nobody talks; arguments and errors are the same."""
    _check_batches(batches, num_workers, num_local_steps)
    keys = jax.random.split(key, (num_workers, num_local_steps))
    losses, at = local_steps(task, params, model_state, keys, batches, local_opt, local_opt_states)
    return work_done(params, losses, at)


def local_steps(
    task: Task,
    params: PyTree,
    model_state: PyTree,
    keys: jax.Array,
    batches: PyTree,
    local_opt: optax.GradientTransformation,
    local_opt_states: PyTree = None,
    at: WorkersAt | None = None,
) -> tuple[jax.Array, WorkersAt]:
    """Takes h local steps on each worker: from the round's start, or from where they stand.

    Args:
      task: as for `local_round`, and so are `params`, `model_state` and `local_opt`.
      params: see there.
      model_state: see there.
      keys: random keys, [K, h].
      batches: tree of arrays [K, h, ...].
      local_opt: see there.
      local_opt_states: see there; of the round's start.
      at: where the workers stand, if steps were taken.

    Returns:
      The losses of the steps, [K, h], and where the workers stand after them.
    """
    num_workers = len(keys)
    mesh = _mesh_for(num_workers)
    loss_and_grad = jax.value_and_grad(task.loss_with_state, has_aux=True)

    def local_step(carry: tuple, step_input: tuple) -> tuple[tuple, jax.Array]:
        weights, state, opt_state = carry
        step_key, batch = step_input
        (loss, state), grads = loss_and_grad(weights, state, step_key, batch)
        updates, opt_state = local_opt.update(grads, opt_state, weights)
        return (optax.apply_updates(weights, updates), state, opt_state), loss

    def one_worker(
        worker_keys: jax.Array, worker_batches: PyTree, opt_state: PyTree, at: WorkersAt | None
    ) -> tuple:
        opt_state = local_opt.init(params) if opt_state is None else opt_state
        start = (params, model_state, opt_state) if at is None else tuple(at)
        # The optimizer may promote a weakly typed leaf; a scan's carry may not change type.
        first = jax.tree.map(lambda leaf: leaf[0], (worker_keys, worker_batches))
        types = jax.eval_shape(local_step, start, first)[0]
        start = jax.tree.map(lambda leaf, t: jnp.asarray(leaf, t.dtype), start, types)
        end, losses = jax.lax.scan(local_step, start, (worker_keys, worker_batches))
        return losses, *end

    @drjax.program(placements={WORKER_AXIS: num_workers})
    def all_workers(*given: PyTree) -> tuple[jax.Array, WorkersAt]:
        # Without a mesh of ours DrJAX looks for one in a deprecated corner of JAX.
        losses, *end = drjax.map_fn(one_worker, given, mesh=mesh)
        return losses, WorkersAt(*end)

    with _no_mesh_is_no_warning():
        return all_workers(keys, batches, local_opt_states, at)


def work_done(params: PyTree, losses: jax.Array, at: WorkersAt) -> WorkersOutput:
    """What workers bring back who began at `params`, had `losses`, [K, H], and stand `at`."""

    def difference(before: jax.Array, after: jax.Array) -> jax.Array:
        return widened(before)[None] - widened(after)

    deltas = jax.tree.map(difference, params, at.params)
    return WorkersOutput(losses, deltas, at.model_states, at.local_opt_states)


def merged(
    work: WorkersOutput,
    weights: jax.Array | None = None,
    local_opt_states: PyTree = None,
    worker_squares: bool = False,
    compression: Compression | None = None,
    residuals: Residuals | None = None,
    mean_is_sent: bool = True,
) -> RoundOutput:
    """The part of `local_round` in which workers talk; arguments are the same.

    Args:
      work: of `local_work`.
      weights: w, [K].
      local_opt_states: those from before the round.
      worker_squares: also compute q.
      compression: of the deltas.
      residuals: those from before the round.
      mean_is_sent: whether the mean is compressed too, where the compression does that.
    """
    deltas = work.deltas
    if compression is None:
        delta = tree_mean(deltas, weights)
    else:
        deltas, delta, residuals = _exchanged(compression, deltas, residuals, weights, mean_is_sent)
    return RoundOutput(
        mean_over_workers(jnp.mean(work.losses, axis=1), weights),
        work.losses,
        delta,
        deltas,
        mean_over_workers(work.model_states, weights),
        _of_those_there(local_opt_states, work.local_opt_states, weights),
        mean_of_squares(deltas, weights) if worker_squares else None,
        residuals,
        mean_over_workers(work.losses[:, 0], weights),
    )


def _exchanged(
    compression: Compression,
    deltas: PyTree,
    residuals: Residuals | None,
    weights: jax.Array | None,
    mean_is_sent: bool,
) -> tuple[PyTree, PyTree, Residuals | None]:
    """Worker deltas and their mean, as received, and the new residuals."""
    if residuals is None:
        params = jax.tree.map(lambda d: d[0], deltas)
        count = len(jax.tree.leaves(deltas)[0])
        residuals = no_residuals(compression, params, count, mean_is_sent)
    before = residuals or Residuals()
    deltas, left = sent(compression, deltas, before.workers)
    left, left_of_mean = _of_those_there(before.workers, left, weights), None
    delta = tree_mean(deltas, weights)
    if mean_is_sent and compression.compresses_mean:
        # With nobody there, nothing of what was left is sent either.
        anyone = None if weights is None else jnp.max(weights, keepdims=True)
        alone = jax.tree.map(lambda leaf: leaf[None], delta)
        received, left_of_mean = sent_back(compression, alone, before.mean)
        left_of_mean = _of_those_there(before.mean, left_of_mean, anyone)
        delta = tree_mean(received, anyone)
    return deltas, delta, None if residuals is None else Residuals(left, left_of_mean)


def _of_those_there(before: PyTree, after: PyTree, weights: jax.Array | None) -> PyTree:
    """What workers keep, [K, ...]: an absent worker's is what it was before the round."""
    if before is None or weights is None:
        return after

    def choose(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(over_leading_axis(weights > 0, new), new, old)

    return jax.tree.map(choose, before, after)


def _mesh_for(num_workers: int) -> Any:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty and _in_old_mesh():
        raise ValueError(
            "local_round is called inside `with mesh:`, which JAX no longer looks at, so that all "
            "workers would run on one device; write `with jax.set_mesh(mesh):`."
        )
    if WORKER_AXIS in mesh.axis_names and num_workers % mesh.shape[WORKER_AXIS]:
        raise ValueError(
            f"num_workers={num_workers} cannot be divided among the {mesh.shape[WORKER_AXIS]} "
            f"devices along the mesh's axis {WORKER_AXIS!r}; take a multiple of them, or a mesh "
            "whose axis divides num_workers."
        )
    explicit = jax.sharding.AxisType.Explicit
    if dict(zip(mesh.axis_names, mesh.axis_types, strict=True)).get(WORKER_AXIS) == explicit:
        warnings.warn(
            f"the mesh's axis {WORKER_AXIS!r} is Explicit, so that every device takes the local "
            "steps of all workers; have them divided by jax.make_mesh(..., "
            "axis_types=(jax.sharding.AxisType.Auto,)).",
            stacklevel=3,
        )
    return mesh


def _check_batches(batches: PyTree, num_workers: int, num_local_steps: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(batches):
        if leaf.shape[:2] != (num_workers, num_local_steps):
            raise ValueError(
                f"batch{jax.tree_util.keystr(path)} has shape {leaf.shape}: it must begin with "
                f"[K, H] = [{num_workers}, {num_local_steps}]; take batches from the wrapped "
                "task family's own `datasets`, or stack K x H of the inner ones."
            )


def _in_old_mesh() -> bool:
    """Whether a mesh was entered in the way that JAX has deprecated, as far as it still tells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        resources = getattr(jax.interpreters.pxla, "thread_resources", None)
    return resources is not None and not resources.env.physical_mesh.empty


@contextlib.contextmanager
def _no_mesh_is_no_warning() -> Iterator[None]:
    """Drops DrJAX's two warnings that no mesh is set: on one device that is the normal case."""

    def keep(record: logging.LogRecord) -> bool:
        about_mesh = record.getMessage().startswith(("No mesh containing", "No mesh axis named"))
        return not (about_mesh and is_on_one_device())

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
