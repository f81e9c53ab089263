"""The meta-training loop: upstream's gradient estimators and learner, one theta out."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import gin
import jax
import numpy as np

from comm_lopt import upstream
from comm_lopt.checks import (
    require_at_least_one,
    require_jax_option_off,
    require_same_workers,
    require_seed,
)
from comm_lopt.data.feeding.as_arguments import data_as_arguments
from comm_lopt.data.feeding.positions import close, part_sizes, reseed
from comm_lopt.long_runs.checkpoints import Checkpoints
from comm_lopt.long_runs.own_folder import CHECKPOINTS, alone_in, refuse_another_run
from comm_lopt.long_runs.stop_signals import StopSignals
from comm_lopt.meta_train.figure import draw
from comm_lopt.meta_train.log import METRICS_FILE, MetaTrainLog
from comm_lopt.meta_train.not_finite import WatchedEstimator
from comm_lopt.meta_train.opening import family_names, opening
from comm_lopt.meta_train.parts import RunParts
from comm_lopt.meta_train.run import Run
from comm_lopt.meta_train.settings import decisive, run_settings
from comm_lopt.meta_train.validation import SEEDS, make_validation
from comm_lopt.optimizers.learned.rule import GlobalLearnedOptimizer
from comm_lopt.optimizers.learned.steering import Steering
from comm_lopt.processes import require_agreement, together, wait_for_all
from comm_lopt.theta import load_theta, theta_file
from comm_lopt.versions import versions

__all__ = ["check_fit", "meta_train"]

PyTree = Any

_FOLDER_FLAG = "--train_log_dir"
_OF_WORKERS = {
    "worker_deltas": "each worker's delta",
    "worker_squares": "the mean of the workers' squared deltas",
}


def check_fit(task_family: upstream.TaskFamily, learned_opt: upstream.LearnedOptimizer) -> None:
    """Raises ValueError unless the family does for its rounds what the optimizer needs."""
    _check_steering(task_family, getattr(learned_opt, "steering", None), learned_opt)
    for name, needed in _OF_WORKERS.items():
        if getattr(learned_opt, f"needs_{name}", False) and not getattr(task_family, name, False):
            raise ValueError(
                f"{learned_opt.name} needs {needed} and the task family {task_family.name} gives "
                f"none; set LocalSGDTaskFamily.{name} = True."
            )
    if not isinstance(learned_opt, GlobalLearnedOptimizer) or not learned_opt.needs_worker_deltas:
        return
    require_same_workers(learned_opt.name, learned_opt.num_workers, task_family.num_workers)
    if task_family.participation is not None:
        learned_opt.require_no_absence()


def _check_steering(task_family: Any, steering: Steering | None, learned_opt: Any) -> None:
    if steering is None:
        return
    if not hasattr(task_family, "steered"):
        raise ValueError(
            f"{learned_opt.name} steers the local learning rate, and {task_family.name} has no "
            "local steps; wrap it in LocalSGDTaskFamily, or bind LOptR.steering = False."
        )
    if steering.learned and not task_family.steered:
        raise ValueError(
            f"{learned_opt.name} learns to steer the local learning rate, and the local steps of "
            f"{task_family.name} do not heed it; set LocalSGDTaskFamily.steered = True, or "
            "Steering.learned = False."
        )


@gin.configurable(module="comm_lopt")
def meta_train(
    train_log_dir: str | os.PathLike[str],
    num_meta_steps: int = gin.REQUIRED,
    num_estimators: int = 1,
    task_families: Sequence[upstream.TaskFamily] | None = None,
    seed: int = 0,
    checkpoint_every: int = 100,
    keep_checkpoints: int = 3,
    max_skipped_in_a_row: int = 10,
    resume: bool = False,
    progress: bool = True,
    init_theta: str | os.PathLike[str] | None = None,
    validation_every: int | None = None,
    validation_rounds: int | None = None,
    validation_seeds: Sequence[int] = SEEDS,
) -> tuple[upstream.LearnedOptimizer, PyTree]:
    """Meta-trains the learned optimizer that gin's bindings describe.

    The estimators are those of upstream's `build_gradient_estimators`, the learner upstream's
    `GradientLearner`; bind both with `include 'outer_training.gin'`.

    SIGTERM or Ctrl-C end the run after the meta-step at hand, with a checkpoint; a second
    Ctrl-C ends it at once, by KeyboardInterrupt. A run that is resumed gives bit for bit the
    theta of one that was never stopped, provided that its data can be replayed (all data sets
    of comm_lopt can). docs/reliability.md says what else is promised.

    Inside `joined` it is one run of several processes, all of which call it with the same
    arguments. Each has estimators, tasks and an order of the data of its own; the mean of their
    gradients moves theta, which is the same bits in all. Process 0 writes the folder and validates.
    A signal to any of them stops all after the same meta-step.

    Args:
      train_log_dir: gets theta/, best_theta/, checkpoints/, metrics.csv, validation.csv,
        skipped.csv, events, config.gin and at the end meta_train.png.
      num_meta_steps: meta-steps of the whole run.
      num_estimators: gradient estimators whose gradients are averaged in each meta-step; of
        several task families, for each of them.
      task_families: meta-train on a mixture: families (wrapped already, such as several
        `LocalSGDTaskFamily`) that each get estimators of their own. None: the one family of
        upstream's `sample_task_family_fn` binding.
      seed: of theta, tasks, perturbations; with the data sets' own seed, of the data's order.
      checkpoint_every: meta-steps from one checkpoint to the next.
      keep_checkpoints: how many of the newest stay, beside the best; see `Progress`.
      max_skipped_in_a_row: a meta-step whose meta-loss or meta-gradient is not finite is not
        applied; so many in a row end the run.
      resume: go on from the newest checkpoint in `train_log_dir`, if there is a run.
      progress: say on stderr what runs and how far it is.
      init_theta: folder, file or name of a theta to start from, of the same rule and sizes. A run
        that is resumed may leave it out, and takes no other.
      validation_every: meta-steps from one `Validation` to the next, by which the best theta is
        then chosen; 0: none. None: a tenth of the run, or more where that would take over 5 % of
        the rounds of meta-training.
      validation_rounds: T of validation; None: the most rounds that the truncation schedule gives.
      validation_seeds: of validation, one run each.

    Returns:
      The learned optimizer and its theta, a tree as from its `init`.

    Raises:
      FileExistsError: `train_log_dir` holds a run and `resume` is not set, or another process
        is at it (`BusyError`).
      ValueError: a number outside its interval, an optimizer that does not fit its task family, or
        an option of JAX that meta-training cannot have.
      FileNotFoundError: no theta at `init_theta`.
      ThetaError: a theta there that is of another rule or size, or cannot be read.
      CheckpointError: `resume`, and no checkpoint of the run is whole.
      ResumeError: `resume` with a configuration that is another problem.
      SaveError: the folder cannot be written.
      OSError: another file, such as one of the data, cannot be read.
      DivergedError: `max_skipped_in_a_row` meta-steps in a row were not finite.
      RunStopped: a signal asked for it.
      ProcessError: the processes are of different runs, or one is gone.
    """
    require_jax_option_off("jax_enable_custom_prng", "checkpoints hold random keys as integers")
    require_jax_option_off("jax_disable_jit", "a meta-step takes minutes without compilation")
    require_at_least_one("num_meta_steps", num_meta_steps, "meta-steps")
    require_at_least_one("num_estimators", num_estimators, "gradient estimators")
    require_at_least_one("checkpoint_every", checkpoint_every, "meta-steps between checkpoints")
    require_at_least_one("keep_checkpoints", keep_checkpoints, "checkpoints")
    require_at_least_one("max_skipped_in_a_row", max_skipped_in_a_row, "skipped meta-steps")
    seed = require_seed("seed", seed)
    folder = pathlib.Path(train_log_dir)
    first = jax.process_index() == 0
    progress = progress and first
    with together():
        if first:
            refuse_another_run(folder, METRICS_FILE, resume, _FOLDER_FLAG)
        key = jax.random.PRNGKey(seed)
        theta_key, estimator_key, unrolls_key, key = jax.random.split(key, 4)
        learner = upstream.configured_gradient_learner(num_meta_steps)
        estimators = [
            WatchedEstimator(estimator)
            for estimator in upstream.build_gradient_estimators(
                estimator_key, num_estimators, task_families
            )
        ]
        families = [upstream.task_family_of(estimator) for estimator in estimators]
        learned_opt = upstream.learned_opt_of(estimators[0])
        for number, family in enumerate(families):
            check_fit(family, learned_opt)
            _tell_parts(family, progress)
            reseed(family.datasets, seed, jax.process_index() * len(families) + number)
        names = family_names(families[::num_estimators])
        validation, validation_told = make_validation(
            estimators, names, learned_opt, num_meta_steps, validation_every, validation_rounds,
            validation_seeds,
        )  # fmt: skip
        start, started_from = None, None
        if init_theta is not None:
            _, start, _ = load_theta(init_theta, learned_opt)
            started_from = theta_file(init_theta)["sha256"]
        told = decisive(run_settings(seed, families, learned_opt))
    require_agreement(
        {
            **told,
            "versions": versions(),
            "resume": resume,
            "init_theta": started_from,
            "num_meta_steps": num_meta_steps,
            "checkpoint_every": checkpoint_every,
            "max_skipped_in_a_row": max_skipped_in_a_row,
            "validation": validation_told,
        }
    )
    parts = RunParts(
        folder, learner, estimators, families, learned_opt, seed, num_meta_steps, names,
        validation, start, started_from,
    )  # fmt: skip
    if progress:
        for line in opening(parts, validation_told):
            print(line, file=sys.stderr)
    with contextlib.ExitStack() as stack:
        with together():
            if first:
                stack.enter_context(alone_in(folder, METRICS_FILE, resume, _FOLDER_FLAG))
        stop = stack.enter_context(StopSignals())
        stack.enter_context(data_as_arguments())
        for family in families:
            stack.callback(close, family.datasets)
        checkpoints = log = None
        if first:
            checkpoints = Checkpoints(folder / CHECKPOINTS, keep_checkpoints)
            stack.callback(checkpoints.close)
        run = Run(parts, checkpoints, theta_key, unrolls_key, key)
        if first:
            several = names if len(names) > 1 else ()
            log = MetaTrainLog(folder, run.progress.meta_step, num_meta_steps, progress, several)
            stack.callback(log.close)
        run.go_on(log, stop, checkpoint_every, max_skipped_in_a_row)
        if first:
            draw(folder)
        wait_for_all()
    return learned_opt, jax.tree.map(np.asarray, run.theta)


def _tell_parts(family: upstream.TaskFamily, aloud: bool) -> None:
    sizes = part_sizes(family.datasets)
    if aloud and sizes is not None:
        print(f"{family.name}: training examples of each worker: {sizes}", file=sys.stderr)
