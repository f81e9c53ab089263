"""Whole training runs as one compiled scan over rounds, vectorised over seeds and a grid."""

from __future__ import annotations

import dataclasses
import math
import operator
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from comm_lopt.data.datasets import ExampleDatasets
from comm_lopt.data.rounds import RoundIterator
from comm_lopt.meta_test.problem import Candidate, Problem

__all__ = ["Curves", "run"]

PyTree = Any

_MAX_EVALUATIONS = 20
_HELDOUT_BATCH = 1000
_MAX_HELDOUT = 10_000
_HELDOUT_BATCHES_OF_AN_ITERATOR = 8
_MAX_CHUNK_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True)
class Curves:
    """What G grid points × S seeds left behind. Diverged runs hold what they came to.

    Attributes:
      train_loss: [G, S, T], mean over workers and local steps.
      heldout_rounds: [E], rounds after which the held-out split was evaluated.
      heldout_loss: [G, S, E].
      heldout_metrics: what else the task reports, such as "accuracy": by name, [G, S, E].
      seconds_per_round: wall time over G·S·T, compilation left out.
      bytes_per_round_per_worker: what a worker hands to a communication.
    """

    train_loss: np.ndarray
    heldout_rounds: np.ndarray
    heldout_loss: np.ndarray
    heldout_metrics: Mapping[str, np.ndarray]
    seconds_per_round: float
    bytes_per_round_per_worker: int

    @property
    def diverged(self) -> np.ndarray:
        """[G, S], whether any loss of the run is not finite."""
        finite = np.isfinite(self.train_loss).all(-1) & np.isfinite(self.heldout_loss).all(-1)
        return ~finite

    @property
    def final_train_loss(self) -> np.ndarray:
        """[G, S], mean of the last 5 % of the rounds."""
        last = max(1, round(0.05 * self.train_loss.shape[-1]))
        return self.train_loss[..., -last:].mean(-1)


def run(
    problem: Problem,
    candidate: Candidate,
    seeds: Sequence[int],
    grid: Sequence[Mapping[str, float]] = ({},),
    grid_batch_size: int | None = None,
) -> Curves:
    """Trains with `candidate` from every seed, at every grid point.

    A seed decides the initial weights and the order of the data; both are the same for every
    grid point and candidate. (Upstream's own iterators have no order to begin anew: there each
    seed takes the next batches, which all grid points share.) A round is compiled once.
    Batches go to the device in chunks of rounds; the next chunk is read while one is computed.

    Args:
      problem: what is trained.
      candidate: the optimizer.
      seeds: one run each.
      grid: hyperparameters of each grid point, all with the same keys.
      grid_batch_size: grid points side by side; all if None. Smaller saves memory.

    Returns:
      The curves of all runs.

    Raises:
      ValueError: no seeds, no grid points, or a candidate that does not fit the problem.
    """
    if not seeds or not grid:
        raise ValueError(
            f"seeds={list(seeds)} and {len(grid)} grid points: at least one of each is needed."
        )
    candidate.check(problem)
    segment = _rounds_between_evaluations(problem.num_rounds)
    data = [problem.rounds().reseeded(seed) for seed in seeds]
    heldout, shares = _heldout_batches(problem)
    points = {name: jnp.asarray([point[name] for point in grid], jnp.float32) for name in grid[0]}
    keys = jnp.stack([jax.random.PRNGKey(seed) for seed in seeds])

    def start(hparams: PyTree, key: jax.Array) -> PyTree:
        family, opt = candidate.build(problem, hparams)
        task_key, init_key, opt_key, _ = jax.random.split(key, 4)
        cfg = family.sample(task_key)
        params, state = family.task_fn(cfg).init_with_state(init_key)
        return cfg, opt.init(params, state, num_steps=problem.num_rounds, key=opt_key)

    def advance(
        hparams: PyTree, key: jax.Array, carry: PyTree, first_round: jax.Array, batches: PyTree
    ) -> tuple[PyTree, jax.Array]:
        family, opt = candidate.build(problem, hparams)
        cfg, opt_state = carry
        task = family.task_fn(cfg)
        rounds_key = jax.random.split(key, 4)[3]
        loss_and_grad = jax.value_and_grad(task.loss_with_state, has_aux=True)

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

    def evaluate(hparams: PyTree, key: jax.Array, carry: PyTree, heldout: PyTree) -> tuple:
        family, opt = candidate.build(problem, hparams)
        cfg, opt_state = carry
        task = family.task_fn(cfg).inner
        params, state = opt.get_params_state(opt_state)

        def one_batch(batch: PyTree) -> tuple:
            loss, _, aux = task.loss_with_state_and_aux(params, state, key, batch)
            return loss, aux

        parts = [jax.tree.map(lambda x: x.mean(0), jax.lax.map(one_batch, s)) for s in heldout]
        return jax.tree.map(lambda *means: sum(map(operator.mul, shares, means)), *parts)

    def mapped(function: Any, grid_axes: tuple, seed_axes: tuple) -> Any:
        return jax.jit(
            _over_grid_and_seeds(function, grid_axes, seed_axes, len(grid), grid_batch_size)
        )

    start_all = mapped(start, (0, None), (None, 0))
    advance_all = mapped(advance, (0, None, 0, None, None), (None, 0, 0, None, 0))
    evaluate_all = mapped(evaluate, (0, None, 0, None), (None, 0, 0, None))

    carry = start_all(points, keys)
    number_of_bytes = _bytes_per_worker(candidate, problem)
    chunks = _chunks(data, problem.num_rounds, segment)
    first_round, batches = next(chunks)
    arguments = (points, keys, carry, jnp.asarray(first_round, jnp.int32), batches)
    advance_compiled = advance_all.lower(*arguments).compile()
    evaluate_compiled = evaluate_all.lower(points, keys, carry, heldout).compile()
    losses, evaluations = [], []
    begin = time.perf_counter()
    while batches is not None:
        carry, loss = advance_compiled(
            points, keys, carry, jnp.asarray(first_round, jnp.int32), batches
        )
        losses.append(loss)
        done = first_round + loss.shape[-1]
        if done % segment == 0:
            evaluations.append(evaluate_compiled(points, keys, carry, heldout))
        # The device is computing while the next batches are read.
        first_round, batches = next(chunks, (done, None))
        jax.block_until_ready(loss)
    jax.block_until_ready(evaluations)
    seconds = time.perf_counter() - begin
    train_loss = np.concatenate([np.asarray(loss) for loss in losses], axis=2)
    heldout_loss, metrics = jax.tree.map(
        lambda *parts: np.stack([np.asarray(part) for part in parts], axis=2), *evaluations
    )
    return Curves(
        train_loss=train_loss,
        heldout_rounds=np.arange(segment, problem.num_rounds + 1, segment),
        heldout_loss=heldout_loss,
        heldout_metrics=metrics,
        seconds_per_round=seconds / train_loss.size,
        bytes_per_round_per_worker=number_of_bytes,
    )


def _over_grid_and_seeds(
    function: Any, grid_axes: tuple, seed_axes: tuple, num_points: int, batch_size: int | None
) -> Any:
    """Maps `function` over the grid and, inside, over the seeds."""
    over_seeds = jax.vmap(function, in_axes=seed_axes)
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


def _rounds_between_evaluations(num_rounds: int) -> int:
    """Smallest divisor of T that leaves at most 20 evaluations."""
    divisors = [d for d in range(1, num_rounds + 1) if num_rounds % d == 0]
    return next(d for d in divisors if num_rounds // d <= _MAX_EVALUATIONS)


def _chunks(
    data: list[RoundIterator], num_rounds: int, segment: int
) -> Iterator[tuple[int, PyTree]]:
    """Yields (first round, batches [S, rounds, K, H, ...]), equal parts of a segment."""

    def rounds(count: int) -> list[PyTree]:
        return [
            jax.tree.map(lambda *leaves: np.stack(leaves), *[next(r) for r in data])
            for _ in range(count)
        ]

    taken = rounds(1)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(taken))
    fitting = max(1, _MAX_CHUNK_BYTES // size)
    # Equal parts, so that all run the one compiled program.
    length = max(d for d in range(1, min(fitting, segment) + 1) if segment % d == 0)
    for first_round in range(0, num_rounds, length):
        taken += rounds(length - len(taken))
        yield first_round, jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *taken)
        taken = []


def _heldout_batches(problem: Problem) -> tuple[list[PyTree], list[float]]:
    """Stacks of batches of the held-out split, and the share of the examples that each holds.

    At most 10,000 examples, the same for all; see `ExampleDatasets.heldout`. Of upstream's own
    iterators the next 8 batches.
    """
    datasets = problem.task_family.datasets
    if isinstance(datasets, ExampleDatasets):
        stacks = datasets.heldout(problem.heldout_split, _HELDOUT_BATCH, _MAX_HELDOUT)
        sizes = [len(jax.tree.leaves(stack)[0]) * datasets.size_of(stack) for stack in stacks]
        return stacks, [size / sum(sizes) for size in sizes]
    source = datasets.split(problem.heldout_split)
    batches = [next(source) for _ in range(_HELDOUT_BATCHES_OF_AN_ITERATOR)]
    return [jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)], [1.0]


def _bytes_per_worker(candidate: Candidate, problem: Problem) -> int:
    """Bytes of one worker's delta (or gradient) and of the floats in its model state."""

    def params_and_state(key: jax.Array) -> PyTree:
        family, _ = candidate.build(problem, {})
        return family.task_fn(family.sample(key)).init_with_state(key)

    leaves = jax.tree.leaves(jax.eval_shape(params_and_state, jax.random.PRNGKey(0)))
    floats = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in floats)
