"""The programs of a real run: a round's work, in which nobody talks, and its merge."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from comm_lopt.meta_test.problem import Problem
from comm_lopt.meta_test.runs import start_run
from comm_lopt.methods import Method
from comm_lopt.round_state import RoundState, round_state
from comm_lopt.tasks.exchange import WORKER_AXIS, parts_of
from comm_lopt.tasks.local_round import WorkersAt, work_done
from comm_lopt.train.late import Patience
from comm_lopt.train.workers import WorkerDevices

__all__ = ["Collective", "RoundPrograms", "RoundReport", "collectives_in"]

PyTree = Any


class RoundReport(NamedTuple):
    """What is told of a round.

    Attributes:
      train_loss: mean over local steps and over the workers who took part.
      worker_losses: mean over the local steps of each worker, [K]; not a number for one who was
        late.
      absent: the workers who took no part.
      stopping: whether a process wants the run to stop.
    """

    train_loss: float
    worker_losses: np.ndarray
    absent: list[int]
    stopping: bool


class RoundPrograms:
    """What is compiled for a run: start, the local steps of all workers, and the global step.

    Keys are those of `meta_test.run`, so that a run with the same seed has the same losses.

    Args:
      problem: what is trained.
      method: what trains it.
      workers: the devices.
      seed: of initial weights and all that is drawn.
      patience: says when a merge is to go on without the workers of this process; their local
        steps are then compiled one by one, so that they can be left off.

    Raises:
      ValueError: the method does not fit the problem, has one worker in place of K, or cannot have
        workers who are absent.
    """

    def __init__(
        self,
        problem: Problem,
        method: Method,
        workers: WorkerDevices,
        seed: int,
        patience: Patience | None = None,
    ):
        method.check(problem)
        if method.workers == "one" and problem.num_workers > 1:
            raise ValueError(
                f"{method.label} trains with one worker and num_workers={problem.num_workers}; "
                "pass num_workers=1, or a method of K workers."
            )
        if patience is not None:
            _require_steps_and_absence(method, problem)
        self._problem, self._workers, self._patience = problem, workers, patience
        self._family, self._opt = method.build(problem, {})
        self._key = jax.random.PRNGKey(seed)
        abstract = jax.eval_shape(self._start, self._key)
        shardings = self._shardings(abstract)
        with jax.set_mesh(workers.mesh):
            self._start_all = jax.jit(self._start, out_shardings=shardings)
            self._work = jax.jit(self._work_of_a_round)
            self._step = jax.jit(self._step_of_a_round)
            self._done = jax.jit(self._work_done)
            self._merge = jax.jit(
                self._merge_of_a_round,
                out_shardings=(shardings, *[NamedSharding(workers.mesh, PartitionSpec())] * 4),
                donate_argnums=0,
            )
        self._programs: tuple[list[Any], Any]

    def start(self) -> PyTree:
        """The run before its first round, on all devices."""
        with jax.set_mesh(self._workers.mesh):
            return self._start_all(self._workers.replicated(self._key))

    def compile(self, carry: PyTree, batches: PyTree) -> None:
        """Compiles all programs, before the first round is timed."""
        number, flags = self._number(0), self._flags(False, True)
        with jax.set_mesh(self._workers.mesh):
            if self._patience is None:
                work, out = _compiled(self._work, carry, number, batches)
                steps = [work]
            else:
                first, (losses, at) = _compiled(self._step, carry, number, batches, number, None)
                later, _ = _compiled(self._step, carry, number, batches, number, at)
                all_losses = [losses] * self._problem.num_local_steps
                done, out = _compiled(self._done, carry, all_losses, at)
                steps = [first, later, done]
            merge, _ = _compiled(self._merge, carry, number, out, flags)
        self._programs = steps, merge

    def work(self, carry: PyTree, number: int, batches: PyTree) -> tuple[PyTree, bool]:
        """The local steps of every worker; waits for those of this process.

        Returns:
          What the workers bring to the merge, and whether they have done all of their steps. Who is
          late leaves off the others, whose losses are not a number.
        """
        steps, _ = self._programs
        at_round = self._number(number)
        if self._patience is None:
            return jax.block_until_ready(steps[0](carry, at_round, batches)), True
        first, later, done = steps
        self._patience.begin(number)
        losses, at = jax.block_until_ready(first(carry, at_round, batches, self._number(0), None))
        all_losses, late = [losses], False
        for step in range(1, self._problem.num_local_steps):
            late = late or self._patience.is_late()
            if late:
                own = np.full((len(self._workers.own), 1), np.nan, losses.dtype)
                losses = self._workers.sharded(own)
            else:
                losses, at = jax.block_until_ready(
                    later(carry, at_round, batches, self._number(step), at)
                )
            all_losses.append(losses)
        if not late:
            self._patience.done()
        return jax.block_until_ready(done(carry, all_losses, at)), not late

    def merge(
        self,
        carry: PyTree,
        number: int,
        work: PyTree,
        stops: bool = False,
        present: bool = True,
    ) -> tuple[PyTree, RoundReport]:
        """The run after the global step, and what is told of the round; `carry` is used up.

        Args:
          carry: the run before the round.
          number: of the round, from 0 on.
          work: of `work`.
          stops: whether this process wants the run to stop.
          present: whether this process's workers take part.
        """
        flags = self._flags(stops, present)
        out = self._programs[1](carry, self._number(number), work, flags)
        carry, *rest = jax.block_until_ready(out)
        loss, losses, there, stopping = (np.asarray(leaf.addressable_data(0)) for leaf in rest)
        absent = [int(k) for k in np.flatnonzero(~there)]
        return carry, RoundReport(float(loss), losses, absent, bool(stopping))

    @property
    def collectives(self) -> tuple[list[Collective], list[Collective]]:
        """What workers exchange in the work and in the merge of a round, as it was compiled."""
        steps, merge = self._programs
        work = [found for step in steps for found in collectives_in(step.as_text())]
        return work, collectives_in(merge.as_text())

    def params(self, carry: PyTree) -> PyTree:
        """The global weights and the model state, as they lie in this process."""
        return self._opt.get_params_state(carry[1])

    def _over_parameters(self, delta: jax.Array) -> jax.Array:
        """Worker deltas [K, *s] divided along an axis of s, see `_spec`.

        So a device gets the K deltas of its part of the parameters, not of all, and computes the
        steps of that part.
        """
        spec = self._spec(delta.shape[1:], 1)
        return jax.lax.with_sharding_constraint(delta, NamedSharding(self._workers.mesh, spec))

    def _spec(self, shape: tuple[int, ...], leading: int) -> PartitionSpec:
        """See `parts_of`."""
        return parts_of(shape, leading, self._workers.mesh.size)

    def _shardings(self, carry: PyTree) -> PyTree:
        """How a run lies on the devices between rounds.

        Local optimizer states and residuals are where their workers are, and the residual of the
        mean in parts, as it is computed. The rule's state is copied, and where steps are computed
        in parts, divided as these are. All else is copied.
        """
        mesh = self._workers.mesh
        params = {
            jax.tree_util.keystr(path): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(
                self._opt.get_params_state(carry[1])[0]
            )
        }

        def one(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
            name = jax.tree_util.keystr(path)
            if ".local_opt_states" in name or ".residuals.workers" in name:
                return NamedSharding(mesh, PartitionSpec(WORKER_AXIS))
            if ".residuals.mean" in name:
                return NamedSharding(mesh, self._spec(leaf.shape[1:], 1))
            if ".transform_state" in name and self._family.worker_deltas:
                for param, shape in params.items():
                    leading = leaf.ndim - len(shape)
                    if name.endswith(param) and leading >= 0 and leaf.shape[leading:] == shape:
                        return NamedSharding(mesh, self._spec(shape, leading))
            return NamedSharding(mesh, PartitionSpec())

        return jax.tree_util.tree_map_with_path(one, carry)

    def inner_config(self, cfg: PyTree) -> PyTree:
        """The inner family's configuration, of what the run sampled."""
        drawn = isinstance(self._family.local_learning_rate, tuple)
        return cfg["inner"] if drawn else cfg

    def _number(self, number: int) -> jax.Array:
        return self._workers.replicated(np.int32(number))

    def _flags(self, stops: bool, present: bool) -> tuple:
        """Of each worker whether its process wants to stop, and whether it takes part."""
        flags = [stops] if self._patience is None else [stops, present]
        own = len(self._workers.own)
        return self._workers.sharded(tuple(np.full(own, flag, np.float32) for flag in flags))

    def _start(self, key: jax.Array) -> PyTree:
        return start_run(self._family, self._opt, self._problem.num_rounds, key)

    def _round(self, carry: PyTree, number: jax.Array) -> tuple:
        cfg, opt_state = carry
        rounds_key = jax.random.split(self._key, 4)[3]
        loss_key, opt_key = jax.random.split(jax.random.fold_in(rounds_key, number))
        params, state = self._opt.get_params_state(opt_state)
        return self._family.task_fn(cfg), params, state, loss_key, opt_key

    def _work_of_a_round(self, carry: PyTree, number: jax.Array, batches: PyTree) -> PyTree:
        task, params, state, key, _ = self._round(carry, number)
        return task.work(params, state, key, batches)

    def _step_of_a_round(
        self,
        carry: PyTree,
        number: jax.Array,
        batches: PyTree,
        step: jax.Array,
        at: WorkersAt | None,
    ) -> tuple[jax.Array, WorkersAt]:
        task, params, state, key, _ = self._round(carry, number)
        return task.work_step(params, state, key, batches, step, at)

    def _work_done(self, carry: PyTree, losses: list[jax.Array], at: WorkersAt) -> PyTree:
        params, _ = self._opt.get_params_state(carry[1])
        return work_done(params, jnp.concatenate(losses, axis=1), at)

    def _merge_of_a_round(
        self, carry: PyTree, number: jax.Array, work: PyTree, flags: tuple
    ) -> tuple[PyTree, jax.Array, jax.Array, jax.Array, jax.Array]:
        stops, *present = flags
        task, params, state, loss_key, opt_key = self._round(carry, number)
        loss, state, delta = task.merge(params, state, loss_key, work, *present)
        if isinstance(state, RoundState):
            deltas = jax.tree.map(self._over_parameters, state.worker_deltas)
            state = state._replace(worker_deltas=deltas)
        opt_state = self._opt.update(carry[1], delta, loss=loss, model_state=state, key=opt_key)
        losses = jnp.mean(work.losses, axis=1)
        weights = round_state(state).worker_weights
        there = jnp.ones(losses.shape, bool) if weights is None else weights > 0
        return (carry[0], opt_state), loss, losses, there, jnp.sum(stops) > 0


def _compiled(function: Any, *arguments: PyTree) -> tuple[Any, PyTree]:
    """The program, and what it gives: shapes, types and where they lie."""
    program = function.lower(*arguments).compile()
    out = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        function.eval_shape(*arguments),
        program.output_shardings,
    )
    return program, out


def _require_steps_and_absence(method: Method, problem: Problem) -> None:
    if method.sends == "gradient":
        raise ValueError(
            f"{method.label} takes no local steps that could be left off; leave out max_wait_s, or "
            "train with a method of local steps."
        )
    # Whoever may be late may be absent.
    method.check(dataclasses.replace(problem, participation=problem.num_workers))


class Collective(NamedTuple):
    """An exchange in a compiled program.

    Attributes:
      kind: such as "all-reduce".
      num_bytes: of what comes out of it, on one device.
    """

    kind: str
    num_bytes: int


_KINDS = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
_COLLECTIVE = re.compile(rf" = (.*?) ({_KINDS})(?:-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]")


def collectives_in(text: str) -> list[Collective]:
    """The exchanges in a compiled program, by its text.

    Args:
      text: as XLA prints a program.
    """
    return [
        Collective(match[2], sum(map(_num_bytes, _ARRAY.findall(match[1]))))
        for match in _COLLECTIVE.finditer(text)
    ]


def _num_bytes(array: tuple[str, str]) -> int:
    kind, shape = array
    bits = 8 if kind == "pred" else int(re.sub(r"\D", "", kind))
    size = int(np.prod([int(n) for n in shape.split(",") if n], dtype=np.int64))
    return size * bits // 8
