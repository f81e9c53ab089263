"""The programs of a real run: a round's work, in which nobody talks, and its merge."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from comm_lopt.meta_test.problem import Problem
from comm_lopt.meta_test.runs import start_run
from comm_lopt.methods import Method
from comm_lopt.round_state import RoundState
from comm_lopt.tasks.local_round import WORKER_AXIS
from comm_lopt.train.workers import WorkerDevices

__all__ = ["Collective", "RoundPrograms", "collectives_in"]

PyTree = Any


class RoundPrograms:
    """What is compiled for a run: start, the local steps of all workers, and the global step.

    Keys are those of `meta_test.run`, so that a run with the same seed has the same losses.

    Args:
      problem: what is trained.
      method: what trains it.
      workers: the devices.
      seed: of initial weights and all that is drawn.
      may_be_late: whether workers may be absent from a merge.

    Raises:
      ValueError: the method does not fit the problem, or has one worker in place of K.
    """

    def __init__(
        self,
        problem: Problem,
        method: Method,
        workers: WorkerDevices,
        seed: int,
        may_be_late: bool = False,
    ):
        method.check(problem)
        if method.workers == "one" and problem.num_workers > 1:
            raise ValueError(
                f"{method.label} trains with one worker and num_workers={problem.num_workers}; "
                "pass num_workers=1, or a method of K workers."
            )
        self._problem, self._workers, self._may_be_late = problem, workers, may_be_late
        self._family, self._opt = method.build(problem, {})
        self._key = jax.random.PRNGKey(seed)
        abstract = jax.eval_shape(self._start, self._key)
        shardings = self._shardings(abstract)
        with jax.set_mesh(workers.mesh):
            self._start_all = jax.jit(self._start, out_shardings=shardings)
            self._work = jax.jit(self._work_of_a_round)
            self._merge = jax.jit(
                self._merge_of_a_round,
                out_shardings=(shardings, *[NamedSharding(workers.mesh, PartitionSpec())] * 3),
                donate_argnums=0,
            )
        self._compiled: tuple[Any, Any] | None = None

    def start(self) -> PyTree:
        """The run before its first round, on all devices."""
        with jax.set_mesh(self._workers.mesh):
            return self._start_all(self._workers.replicated(self._key))

    def compile(self, carry: PyTree, batches: PyTree) -> None:
        """Compiles both programs, before the first round is timed."""
        number, flags = self._number(0), self._flags(False, None)
        with jax.set_mesh(self._workers.mesh):
            work = self._work.lower(carry, number, batches).compile()
            out = jax.tree.map(
                lambda leaf, sharding: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=sharding
                ),
                jax.eval_shape(self._work_of_a_round, carry, number, batches),
                work.output_shardings,
            )
            merge = self._merge.lower(carry, number, out, flags).compile()
        self._compiled = work, merge

    def work(self, carry: PyTree, number: int, batches: PyTree) -> PyTree:
        """The local steps of every worker; waits for those of this process."""
        assert self._compiled is not None
        return jax.block_until_ready(self._compiled[0](carry, self._number(number), batches))

    def merge(
        self,
        carry: PyTree,
        number: int,
        work: PyTree,
        stops: bool = False,
        present: np.ndarray | None = None,
    ) -> tuple[PyTree, float, np.ndarray, bool]:
        """The run after the global step; `carry` is used up.

        Args:
          carry: the run before the round.
          number: of the round, from 0 on.
          work: of `work`.
          stops: whether this process wants the run to stop.
          present: which of this process's workers take part, bool [k]; None: all.

        Returns:
          The run, the mean training loss of the round, that of each worker, [K], and whether any
          process wants the run to stop.
        """
        assert self._compiled is not None
        flags = self._flags(stops, present)
        out = self._compiled[1](carry, self._number(number), work, flags)
        carry, *rest = jax.block_until_ready(out)
        loss, losses, stopping = (np.asarray(leaf.addressable_data(0)) for leaf in rest)
        return carry, float(loss), losses, bool(stopping)

    @property
    def collectives(self) -> tuple[list[Collective], list[Collective]]:
        """What workers exchange in the work and in the merge of a round, as it was compiled."""
        assert self._compiled is not None
        work, merge = (collectives_in(program.as_text()) for program in self._compiled)
        return work, merge

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
        """Divides [..., *s] along the longest axis of s that the devices divide, if any."""
        axes = [
            axis for axis, size in enumerate(shape) if size and size % self._workers.mesh.size == 0
        ]
        if not axes:
            return PartitionSpec()
        longest = max(axes, key=lambda axis: shape[axis])
        return PartitionSpec(*[None] * (leading + longest), WORKER_AXIS)

    def _shardings(self, carry: PyTree) -> PyTree:
        """How a run lies on the devices between rounds.

        Local optimizer states are where their workers are. The rule's state is copied, and where
        steps are computed in parts, divided as these are. All else is copied.
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
            if ".local_opt_states" in name:
                return NamedSharding(mesh, PartitionSpec(WORKER_AXIS))
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

    def _flags(self, stops: bool, present: np.ndarray | None) -> tuple:
        """Of each worker whether its process wants to stop, and whether it takes part."""
        own = len(self._workers.own)
        flags = [np.full(own, stops, np.float32)]
        if self._may_be_late:
            everyone = np.ones(own, np.float32)
            flags.append(everyone if present is None else present.astype(np.float32))
        return self._workers.sharded(tuple(flags))

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

    def _merge_of_a_round(
        self, carry: PyTree, number: jax.Array, work: PyTree, flags: tuple
    ) -> tuple[PyTree, jax.Array, jax.Array, jax.Array]:
        stops, *present = flags
        task, params, state, loss_key, opt_key = self._round(carry, number)
        loss, state, delta = task.merge(params, state, loss_key, work, *present)
        if isinstance(state, RoundState):
            deltas = jax.tree.map(self._over_parameters, state.worker_deltas)
            state = state._replace(worker_deltas=deltas)
        opt_state = self._opt.update(carry[1], delta, loss=loss, model_state=state, key=opt_key)
        losses = jnp.mean(work.losses, axis=1)
        return (carry[0], opt_state), loss, losses, jnp.sum(stops) > 0


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
