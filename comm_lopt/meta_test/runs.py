"""Whole training runs as one compiled scan over rounds, vectorised over seeds and a grid."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from comm_lopt.checks import require_at_least_one, require_jax_option_off, require_seed
from comm_lopt.compiler_options import optimization_level
from comm_lopt.data.feeding.as_arguments import data_as_arguments
from comm_lopt.data.feeding.rounds import RoundIterator
from comm_lopt.meta_test.evaluation import EvaluationPart, evaluated
from comm_lopt.meta_test.problem import Problem
from comm_lopt.methods import Method
from comm_lopt.round_state import model_state_of
from comm_lopt.tasks.compression import message_bytes
from comm_lopt.upstream import Optimizer, TaskFamily

__all__ = [
    "Curves",
    "advance_run",
    "chunks_of_rounds",
    "final_window",
    "run",
    "running_mean",
    "start_run",
]

PyTree = Any
Evaluations = Literal["spread", "end"]

_EVALUATIONS = 20
_FINAL_SHARE = 0.05
_MAX_CHUNK_BYTES = 1 << 28


def final_window(num_rounds: int) -> int:
    """The number of rounds whose mean is a run's final training loss: 5 % of T."""
    return max(1, round(_FINAL_SHARE * num_rounds))


def running_mean(losses: np.ndarray) -> np.ndarray:
    """[..., T] to the mean over `final_window(T)` rounds that end with each, [..., T − w + 1]."""
    losses = np.asarray(losses, np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(losses, final_window(losses.shape[-1]), -1)
    return windows.mean(-1)


class BytesPerRound(NamedTuple):
    """What one worker sends and receives in a round of T."""

    sent: int
    received: int


@dataclasses.dataclass(frozen=True)
class Curves:
    """What G grid points × S seeds left behind. Diverged runs hold what they came to.

    Attributes:
      train_loss: [G, S, T], mean over workers and local steps.
      evaluated_rounds: [E], rounds after which the global weights were evaluated.
      loss_at_weights: [G, S, E], at the global weights on a fixed part of the training split.
      heldout_loss: [G, S, E].
      heldout_metrics: what else the task reports, such as "accuracy": by name, [G, S, E].
      seconds_per_round: wall time over G·S·T, compilation and evaluation left out.
      bytes_per_round: of one worker.
    """

    train_loss: np.ndarray
    evaluated_rounds: np.ndarray
    loss_at_weights: np.ndarray
    heldout_loss: np.ndarray
    heldout_metrics: Mapping[str, np.ndarray]
    seconds_per_round: float
    bytes_per_round: BytesPerRound

    @property
    def diverged(self) -> np.ndarray:
        """[G, S], whether any loss of the run is not finite."""
        losses = (self.train_loss, self.loss_at_weights, self.heldout_loss)
        return ~np.logical_and.reduce([np.isfinite(loss).all(-1) for loss in losses])

    @property
    def final_train_loss(self) -> np.ndarray:
        """[G, S], mean of the last 5 % of the rounds."""
        return running_mean(self.train_loss)[..., -1]


def run(
    problem: Problem,
    method: Method,
    seeds: Sequence[int],
    grid: Sequence[Mapping[str, float]] = ({},),
    grid_batch_size: int | None = None,
    evaluations: Evaluations = "spread",
) -> Curves:
    """Trains with `method` from every seed, at every grid point.

    A seed decides the initial weights and the order of the data; both are the same for every
    grid point and method. (Upstream's own iterators have no order to begin anew: there each
    seed takes the next batches, which all grid points share.) A program is compiled for each
    number of rounds between two evaluations, of which there are at most two. Batches go to the
    device in chunks of rounds; the next chunk is read while one is computed.

    Args:
      problem: what is trained.
      method: what trains it.
      seeds: one run each.
      grid: hyperparameters of each grid point, all with the same keys.
      grid_batch_size: grid points side by side; all if None. Smaller saves memory.
      evaluations: about 20, "spread" over the rounds, or one at the "end".

    Returns:
      The curves of all runs.

    Raises:
      ValueError: no seeds, one outside [0, 2³²), no grid points, a method that does not fit the
        problem, or JAX is not to compile.
    """
    require_jax_option_off("jax_disable_jit", "what is timed are programs compiled ahead")
    if not len(seeds) or not len(grid):
        raise ValueError(
            f"seeds={list(seeds)} and {len(grid)} grid points: at least one of each is needed."
        )
    seeds = [require_seed("seeds", seed) for seed in seeds]
    method.check(problem, grid[0])
    # In the programs values are traced, and nothing can look at them.
    for point in grid:
        method.make(point)
    stacks, shares = zip(problem.train_part, problem.heldout_part, strict=True)
    points = {name: jnp.asarray([point[name] for point in grid], jnp.float32) for name in grid[0]}
    keys = jnp.stack([jax.random.PRNGKey(seed) for seed in seeds])

    def start(hparams: PyTree, key: jax.Array) -> PyTree:
        return start_run(*method.build(problem, hparams), problem.num_rounds, key)

    def advance(hparams: PyTree, *arguments: Any) -> tuple[PyTree, jax.Array]:
        return advance_run(*method.build(problem, hparams), *arguments)

    def evaluate(hparams: PyTree, key: jax.Array, carry: PyTree, stacks: tuple) -> tuple:
        family, opt = method.build(problem, hparams)
        cfg, opt_state = carry
        params, state = opt.get_params_state(opt_state)
        parts = [EvaluationPart(*part) for part in zip(stacks, shares, strict=True)]
        task = family.task_fn(cfg).inner
        (at_weights, _), heldout = evaluated(task, params, model_state_of(state), key, parts)
        return at_weights, *heldout

    def mapped(function: Any, grid_axes: tuple, seed_axes: tuple, **options: Any) -> Any:
        over_all = _over_grid_and_seeds(function, grid_axes, seed_axes, len(grid), grid_batch_size)
        return jax.jit(over_all, **options)

    # In a short run most of what these two cost is to compile them.
    start_all = mapped(start, (0, None), (None, 0), compiler_options=optimization_level(0))
    advance_all = mapped(advance, (0, None, 0, None, None), (None, 0, 0, None, 0), donate_argnums=2)
    evaluate_all = mapped(
        evaluate, (0, None, 0, None), (None, 0, 0, None), compiler_options=optimization_level(1)
    )

    evaluated_rounds = _evaluated_rounds(problem.num_rounds, evaluations)
    data = [problem.rounds().reseeded(seed) for seed in seeds]
    losses, evaluations_made = [], []
    seconds = 0.0
    programs: dict[int, Any] = {}
    try:
        with data_as_arguments():
            carry = start_all(points, keys)
            evaluate_compiled = evaluate_all.lower(points, keys, carry, stacks).compile()
            chunks = chunks_of_rounds(data, evaluated_rounds)
            first_round, batches = next(chunks)
            while batches is not None:
                arguments = (points, keys, carry, jnp.asarray(first_round, jnp.int32), batches)
                length = jax.tree.leaves(batches)[0].shape[1]
                if length not in programs:
                    programs[length] = advance_all.lower(*arguments).compile()
                begin = time.perf_counter()
                carry, loss = programs[length](*arguments)
                done = first_round + length
                # The device is computing while the next batches are read.
                first_round, batches = next(chunks, (done, None))
                jax.block_until_ready(loss)
                seconds += time.perf_counter() - begin
                losses.append(loss)
                if done in evaluated_rounds:
                    # Waited for here, so that it is not part of the rounds that follow.
                    evaluation = evaluate_compiled(points, keys, carry, stacks)
                    evaluations_made.append(jax.block_until_ready(evaluation))
    finally:
        for rounds in data:
            rounds.close()
    train_loss = np.concatenate([np.asarray(loss) for loss in losses], axis=2)
    loss_at_weights, heldout_loss, metrics = jax.tree.map(
        lambda *parts: np.stack([np.asarray(part) for part in parts], axis=2), *evaluations_made
    )
    return Curves(
        train_loss=train_loss,
        evaluated_rounds=np.asarray(evaluated_rounds),
        loss_at_weights=loss_at_weights,
        heldout_loss=heldout_loss,
        heldout_metrics=metrics,
        seconds_per_round=seconds / train_loss.size,
        bytes_per_round=bytes_per_round(method, problem),
    )


def start_run(family: TaskFamily, opt: Optimizer, num_rounds: int, key: jax.Array) -> PyTree:
    """A run before its first round: the task that was sampled, and the optimizer's state.

    Args:
      family: what is trained, round by round; its task's gradient is Δ.
      opt: the global optimizer.
      num_rounds: T.
      key: of the whole run.
    """
    task_key, init_key, opt_key, _ = jax.random.split(key, 4)
    cfg = family.sample(task_key)
    params, state = family.task_fn(cfg).init_with_state(init_key)
    return cfg, opt.init(params, state, num_steps=num_rounds, key=opt_key)


def advance_run(
    family: TaskFamily,
    opt: Optimizer,
    key: jax.Array,
    carry: PyTree,
    first_round: jax.Array,
    batches: PyTree,
) -> tuple[PyTree, jax.Array]:
    """The run after some more rounds, and their training losses [rounds].

    Args:
      family: as for `start_run`.
      opt: the global optimizer.
      key: of the whole run.
      carry: where it stands.
      first_round: number of the first of these rounds, from 0 on.
      batches: tree of arrays [rounds, K, H, ...].
    """
    cfg, opt_state = carry
    rounds_key = jax.random.split(key, 4)[3]
    loss_and_grad = jax.value_and_grad(family.task_fn(cfg).loss_with_state, has_aux=True)

    def one_round(opt_state: PyTree, inputs: tuple) -> tuple[PyTree, jax.Array]:
        number, batch = inputs
        loss_key, opt_key = jax.random.split(jax.random.fold_in(rounds_key, number))
        params, state = opt.get_params_state(opt_state)
        (loss, state), grad = loss_and_grad(params, state, loss_key, batch)
        opt_state = opt.update(opt_state, grad, loss=loss, model_state=state, key=opt_key)
        return opt_state, loss

    numbers = first_round + jnp.arange(jax.tree.leaves(batches)[0].shape[0])
    opt_state, losses = jax.lax.scan(one_round, opt_state, (numbers, batches))
    return (cfg, opt_state), losses


def bytes_per_round(method: Method, problem: Problem) -> BytesPerRound:
    """What a worker sends and receives: parameters and the floats of the model state.

    Through an all-reduce or a server that sends back one mean, or two where that of the squares is
    needed too. Each worker that needs all K deltas receives them all and takes the global step
    itself. Of compressed deltas their messages count; squares are then taken where messages arrive
    and need not be sent, and whether the mean or all K messages come back, the compression says.
    The one worker of `workers="one"` is taken to be spread over K machines, which exchange
    gradients and state at each of the H local steps.
    """

    def params_and_state(key: jax.Array) -> tuple:
        task = problem.task_family.task_fn(problem.task_family.sample(key))
        return task.init_with_state(key)

    params, state = jax.eval_shape(params_and_state, jax.random.PRNGKey(0))
    compression, of_state = problem.compression, message_bytes(None, state)
    sent = received = message_bytes(compression, params)
    all_deltas = compression is not None and not compression.compresses_mean
    if method.sends == "worker_deltas" or all_deltas:
        received = problem.num_workers * sent
    elif method.sends == "mean_and_squares":
        squares = message_bytes(None, params)
        sent, received = sent + (squares if compression is None else 0), received + squares
    exchanges = problem.num_local_steps if method.workers == "one" else 1
    return BytesPerRound(exchanges * (sent + of_state), exchanges * (received + of_state))


def _over_grid_and_seeds(
    function: Any, grid_axes: tuple, seed_axes: tuple, num_points: int, batch_size: int | None
) -> Any:
    """Maps `function` over the grid and, inside, over the seeds."""
    over_seeds = jax.vmap(function, in_axes=seed_axes)
    if batch_size is not None:
        batch_size = require_at_least_one("grid_batch_size", batch_size, "points side by side")
    if batch_size is None or batch_size >= num_points:
        return jax.vmap(over_seeds, in_axes=grid_axes, axis_size=num_points)

    def mapped(*arguments: Any) -> Any:
        moving = [a for a, axis in zip(arguments, grid_axes, strict=True) if axis == 0]

        def one_point(moved: list) -> Any:
            rest = iter(moved)
            full = [
                next(rest) if axis == 0 else a for a, axis in zip(arguments, grid_axes, strict=True)
            ]
            return over_seeds(*full)

        return jax.lax.map(one_point, moving, batch_size=batch_size)

    return mapped


def _evaluated_rounds(num_rounds: int, evaluations: Evaluations) -> list[int]:
    """The rounds after which weights are evaluated; the last one is always among them."""
    if evaluations == "end":
        return [num_rounds]
    segment = max(1, round(num_rounds / _EVALUATIONS))
    return [*range(segment, num_rounds, segment), num_rounds]


def chunks_of_rounds(
    data: list[RoundIterator], ends: Sequence[int]
) -> Iterator[tuple[int, PyTree]]:
    """Yields (first round, batches [S, rounds, K, H, ...]); a chunk ends at each of `ends`.

    Args:
      data: the rounds of each of S runs.
      ends: numbers of rounds, ascending, the last one T.
    """

    def rounds(count: int) -> list[PyTree]:
        return [
            jax.tree.map(lambda *leaves: np.stack(leaves), *[next(r) for r in data])
            for _ in range(count)
        ]

    taken = rounds(1)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(taken))
    fitting = max(1, _MAX_CHUNK_BYTES // size)
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        # Nearly equal parts, so that few programs are compiled for all.
        length = math.ceil((end - start) / math.ceil((end - start) / fitting))
        for first_round in range(start, end, length):
            taken += rounds(min(length, end - first_round) - len(taken))
            yield first_round, jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *taken)
            taken = []
