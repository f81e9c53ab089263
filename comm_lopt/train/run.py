"""A real run: a task is trained by workers that are devices, of one process or of many."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import jax
import numpy as np

from comm_lopt.checks import require_at_least_one, require_range, require_seed
from comm_lopt.compiler_options import optimization_level
from comm_lopt.data.feeding.as_arguments import data_as_arguments
from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.feeding.rounds import RoundIterator
from comm_lopt.long_runs.errors import RunStopped
from comm_lopt.long_runs.stop_signals import StopSignals
from comm_lopt.meta_test.evaluation import EvaluationPart, evaluated
from comm_lopt.meta_test.problem import Problem
from comm_lopt.meta_test.runs import bytes_per_round, final_window
from comm_lopt.methods import Method
from comm_lopt.processes import (
    exchanging,
    from_first,
    require_agreement,
    require_same_weights,
    shared_board,
    together,
    wait_for_all,
)
from comm_lopt.round_state import model_state_of
from comm_lopt.train.folder import RunFolder
from comm_lopt.train.late import Patience
from comm_lopt.train.link import Link
from comm_lopt.train.log import TrainLog
from comm_lopt.train.programs import RoundPrograms
from comm_lopt.train.workers import WorkerDevices
from comm_lopt.versions import versions

__all__ = ["TrainSummary", "train"]

PyTree = Any

_MEASURES = ("loss_at_weights", "heldout_loss")


@dataclasses.dataclass(frozen=True)
class TrainSummary:
    """What a run came to.

    Attributes:
      rounds: done in this process.
      final_train_loss: mean of the last 5 % of T, as far as they were done here.
      evaluation: the last one, by measure.
      seconds_working: of the local steps of this process's workers, all rounds.
      seconds_merging: of the merges, waiting for other workers included.
      bytes_sent: by one worker in a round.
      bytes_received: by one worker in a round.
    """

    rounds: int
    final_train_loss: float
    evaluation: Mapping[str, float]
    seconds_working: float
    seconds_merging: float
    bytes_sent: int
    bytes_received: int

    def seconds_per_round(self, link: Link | None = None) -> float:
        """Seconds of a round: as measured, or with the exchange taken over `link`."""
        rounds = max(1, self.rounds)
        if link is None:
            return (self.seconds_working + self.seconds_merging) / rounds
        return self.seconds_working / rounds + link.seconds(self.bytes_sent, self.bytes_received)


@gin.configurable(module="comm_lopt", denylist=["problem", "method", "out_dir", "seed", "resume"])
def train(
    problem: Problem,
    method: Method,
    out_dir: str | os.PathLike[str],
    seed: int = 0,
    resume: bool = False,
    progress: bool = True,
    checkpoint_every: int = 100,
    evaluate_every: int = 50,
    keep_checkpoints: int = 2,
    throttle: Link | None = None,
    max_wait_s: float | None = None,
    data_is_for_this: bool = False,
) -> TrainSummary:
    """Trains a task for T rounds with K workers, equally many on each device of all processes.

    All processes call it, with the same arguments, inside `joined`. Losses are those of
    `meta_test.run` with the same seed. Process 0 writes `out_dir`: rounds.csv, evaluations.csv,
    TensorBoard events, checkpoints/ and config.gin. A checkpoint can be resumed by any number of
    processes that divides K.

    Args:
      problem: what is trained; K, H and T are of it.
      method: what trains it.
      out_dir: the run's folder.
      seed: of initial weights and data order.
      resume: go on from the newest checkpoint, if there is a run.
      progress: tell how far it is (on stderr).
      checkpoint_every: rounds from one checkpoint to the next. At each the weights of all
        processes are compared.
      evaluate_every: rounds from one evaluation to the next, which process 0 does alone.
      keep_checkpoints: how many of the newest stay.
      throttle: a slower link, which each merge waits for.
      max_wait_s: seconds that a round waits for other processes once the first has done its local
        steps; whose steps are not done then is absent from it, see `Patience`. None: it waits for
        all.
      data_is_for_this: nobody else uses the problem's data sets. Of several processes each then
        frees the examples that its own workers do not draw; see `ExampleDatasets.keep_only`.

    Raises:
      ValueError: a method or K that does not fit, or a number below 1.
      TypeError: data whose order cannot be replayed.
      ProcessError: the processes are of different runs, or their weights differ.
      FileExistsError: the folder holds another run and `resume` is False.
      ResumeError: it holds a run of another problem or method.
      RunStopped: SIGTERM or Ctrl-C came to any process; all is saved.
    """
    folder = pathlib.Path(out_dir)
    seed = require_seed("seed", seed)
    for name, number in (
        ("checkpoint_every", checkpoint_every),
        ("evaluate_every", evaluate_every),
        ("keep_checkpoints", keep_checkpoints),
    ):
        require_at_least_one(name, number, "rounds")
    told = {
        "problem": problem.describe(),
        "method": {**method.describe(), "theta": dict(method.theta).get("sha256")},
        "seed": seed,
    }
    also = {"versions": versions(), "resume": resume, "max_wait_s": max_wait_s}
    require_agreement({**told, **also})
    workers = WorkerDevices(problem.num_workers)
    programs = RoundPrograms(problem, method, workers, seed, _patience(max_wait_s))
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopSignals("round"))
        stack.enter_context(data_as_arguments())
        data = problem.rounds().reseeded(seed).of_workers(workers.own)
        stack.callback(data.close)
        with together():
            files = RunFolder(folder, resume, keep_checkpoints, stack)
            # Process 0 alone evaluates.
            shown = [] if jax.process_index() else _shown(problem)
        run = _Run(problem, programs, workers, data, told, seed, shown)
        if data_is_for_this and jax.process_count() > 1:
            run.datasets.keep_only(data.own_sources())
        here = run.on_host()
        with together():
            saved = files.restored(here, told)
        run.restore(saved, here)
        require_same_weights(programs.params(run.carry)[0], "at the start")
        log = files.log(run.done, problem, _MEASURES, progress, stack)
        return run.go_on(
            files,
            log,
            stop,
            checkpoint_every,
            evaluate_every,
            throttle,
            bytes_per_round(method, problem),
        )


def _patience(max_wait_s: float | None) -> Patience | None:
    """None where nobody is waited for, or all are for as long as they take."""
    if max_wait_s is None:
        return None
    board = shared_board()
    require_range("max_wait_s", max_wait_s, 0.0)
    return None if board is None else Patience(max_wait_s, board)


class _Run:
    """Where a run stands."""

    def __init__(
        self,
        problem: Problem,
        programs: RoundPrograms,
        workers: WorkerDevices,
        data: RoundIterator,
        told: Mapping[str, Any],
        seed: int,
        shown: Sequence[EvaluationPart],
    ):
        self._problem, self._programs, self._workers = problem, programs, workers
        self._data, self._told, self._shown = data, told, shown
        datasets = problem.task_family.datasets
        if not isinstance(datasets, ExampleDatasets):
            raise TypeError(
                f"{type(datasets).__name__} cannot be divided among processes; use comm_lopt's "
                "data sets."
            )
        self.datasets = datasets
        self._key = jax.random.PRNGKey(seed)
        self._evaluate: Any = None
        self.carry = programs.start()
        self.done = 0

    def on_host(self) -> PyTree:
        """The run as arrays on the host, whole in every process."""
        return self._workers.to_host(self.carry)

    def restore(self, saved: tuple[int, PyTree] | None, here: PyTree) -> None:
        """Goes on from what process 0 read; all processes call it.

        Args:
          saved: rounds done and state, in process 0 where there is a checkpoint.
          here: `on_host()`.
        """
        done = 0 if saved is None else saved[0]
        if jax.process_count() > 1:
            done = int(from_first(np.int32(done)))
            if done:
                saved = done, from_first(here if saved is None else saved[1])
        if done and saved is not None:
            self.carry = self._workers.placed_like(saved[1], self.carry)
        self.done = self._data.state = done

    def go_on(
        self,
        files: RunFolder,
        log: TrainLog | None,
        stop: StopSignals,
        checkpoint_every: int,
        evaluate_every: int,
        throttle: Link | None,
        size: Any,
    ) -> TrainSummary:
        """Does the rounds that are left."""
        total, first = self._problem.num_rounds, self.done
        working = merging = 0.0
        losses_of_rounds: list[float] = []
        evaluation: dict[str, float] = {}
        begin = time.perf_counter()
        for number in range(first, total):
            examples = self.datasets.on_host("train", next(self._data))
            batches = self._workers.sharded(examples)
            if number == first:
                self._programs.compile(self.carry, batches)
                wait_for_all()
            times = [time.perf_counter()]
            work, present = self._programs.work(self.carry, number, batches)
            times.append(time.perf_counter())
            with exchanging(f"the exchange of round {self.done + 1}"):
                wants_stop = stop.requested is not None
                self.carry, report = self._programs.merge(
                    self.carry, number, work, wants_stop, present
                )
            took = time.perf_counter() - times[1]
            if throttle is not None:
                took += throttle.wait(size.sent, size.received, took)
            losses_of_rounds.append(report.train_loss)
            worked = times[1] - times[0]
            working, merging = working + worked, merging + took
            self.done = number + 1
            if log is not None:
                log.write(
                    {
                        "round": self.done,
                        "train_loss": report.train_loss,
                        "seconds": round(time.perf_counter() - begin, 4),
                        "seconds_working": round(worked, 5),
                        "seconds_merging": round(took, 5),
                    },
                    report.worker_losses,
                    report.absent,
                )
            last = self.done == total
            if last or self.done % evaluate_every == 0:
                evaluation = self._evaluated(log)
                # Nobody is to be late because process 0 alone evaluates.
                wait_for_all()
            if last or report.stopping or self.done % checkpoint_every == 0:
                self._save(files, log)
            if report.stopping and not last:
                files.wait()
                raise RunStopped(
                    f"stopped after round {self.done} of {total}, which is saved in "
                    f"{files.folder}; the same command with --resume goes on.",
                    stop.requested or 15,
                )
        files.wait()
        last_ones = losses_of_rounds[-final_window(total) :]
        final = float(np.mean(last_ones)) if last_ones else float("nan")
        return TrainSummary(
            total - first, final, evaluation, working, merging, size.sent, size.received
        )

    def _save(self, files: RunFolder, log: TrainLog | None) -> None:
        require_same_weights(self._programs.params(self.carry)[0], f"after round {self.done}")
        state = self.on_host()
        if log is not None:
            log.flush()
        files.save(self.done, state, {**self._told, "versions": versions()})

    def _evaluated(self, log: TrainLog | None) -> dict[str, float]:
        """Loss of the global weights; in process 0, which has a log, alone."""
        if log is None:
            return {}
        local = jax.tree.map(_local, self._programs.params(self.carry))
        params, state = local[0], model_state_of(local[1])
        if self._evaluate is None:
            cfg = jax.tree.map(_local, self.carry[0])
            task = self._problem.task_family.task_fn(self._programs.inner_config(cfg))
            self._evaluate = jax.jit(
                lambda params, state: evaluated(task, params, state, self._key, self._shown),
                compiler_options=optimization_level(1),
            )
        (at_weights, _), (heldout, _) = self._evaluate(params, state)
        row = dict(zip(_MEASURES, (float(at_weights), float(heldout)), strict=True))
        log.write_evaluation({"round": self.done, **row})
        return row


def _shown(problem: Problem) -> list[EvaluationPart]:
    """The examples of `_MEASURES`, on the host."""
    on_host = problem.task_family.datasets.on_host
    parts = (("train", problem.train_part), (problem.heldout_split, problem.heldout_part))
    return [
        part._replace(stacks=[on_host(split, stack) for stack in part.stacks])
        for split, part in parts
    ]


def _local(leaf: Any) -> Any:
    """What lies on this process's first device."""
    return np.asarray(leaf.addressable_data(0)) if isinstance(leaf, jax.Array) else leaf
