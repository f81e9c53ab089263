"""The meta-training loop: upstream's gradient estimators and learner, one theta out."""

from __future__ import annotations

import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import gin
import jax
import numpy as np
import optax

from comm_lopt import upstream
from comm_lopt.checks import require_at_least_one
from comm_lopt.data.positions import part_sizes, positions, reseed, restore_positions
from comm_lopt.meta_train.checkpoints import Checkpoints
from comm_lopt.meta_train.log import MetaTrainLog
from comm_lopt.optimizers.learned import GlobalLearnedOptimizer
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily
from comm_lopt.theta import save_theta

__all__ = ["check_fit", "meta_train"]

PyTree = Any


def check_fit(task_family: upstream.TaskFamily, learned_opt: upstream.LearnedOptimizer) -> None:
    """Raises ValueError if the optimizer needs worker deltas that the family does not give."""
    if not isinstance(learned_opt, GlobalLearnedOptimizer) or not learned_opt.needs_worker_deltas:
        return
    gives = isinstance(task_family, LocalSGDTaskFamily) and task_family.worker_deltas
    if not gives:
        raise ValueError(
            f"{learned_opt.name} needs each worker's delta and the task family "
            f"{task_family.name} gives none; set LocalSGDTaskFamily.worker_deltas = True."
        )
    if task_family.num_workers != learned_opt.num_workers:
        raise ValueError(
            f"{learned_opt.name}.num_workers={learned_opt.num_workers} and "
            f"LocalSGDTaskFamily.num_workers={task_family.num_workers}: K is part of theta's "
            "shape, so both must be the same number."
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
    resume: bool = False,
    progress: bool = True,
    local_learning_rate: float | None = None,
) -> tuple[upstream.LearnedOptimizer, PyTree]:
    """Meta-trains the learned optimizer that gin's bindings describe.

    The estimators are those of upstream's `build_gradient_estimators`, the learner upstream's
    `GradientLearner`; bind both with `include 'outer_training.gin'`.

    Args:
      train_log_dir: gets theta/, checkpoints/, metrics.csv, events and config.gin.
      num_meta_steps: meta-steps of the whole run.
      num_estimators: gradient estimators whose gradients are averaged in each meta-step; of
        several task families, for each of them.
      task_families: meta-train on a mixture: families (wrapped already, such as several
        `LocalSGDTaskFamily`) that each get estimators of their own. None: the one family of
        upstream's `sample_task_family_fn` binding.
      seed: of theta, tasks, perturbations.
      checkpoint_every: meta-steps from one checkpoint to the next.
      keep_checkpoints: how many of the newest stay.
      resume: go on from the newest checkpoint in `train_log_dir`, if there is one.
      progress: show a progress bar.
      local_learning_rate: γ, for theta's header; that of `local_sgd`'s binding if None.

    Returns:
      The learned optimizer and its theta.

    Raises:
      FileExistsError: `train_log_dir` holds a run, and `resume` is not set.
      ValueError: a number below 1, or an optimizer that does not fit its task family.
    """
    require_at_least_one("num_meta_steps", num_meta_steps, "meta-steps")
    require_at_least_one("num_estimators", num_estimators, "gradient estimators")
    require_at_least_one("checkpoint_every", checkpoint_every, "meta-steps between checkpoints")
    folder = pathlib.Path(train_log_dir)
    if (folder / "metrics.csv").exists() and not resume:
        raise FileExistsError(
            f"{folder} holds another meta-training run; pass --resume to go on with it, or "
            "another --train_log_dir."
        )
    key = jax.random.PRNGKey(seed)
    theta_key, estimator_key, state_key, key = jax.random.split(key, 4)
    learner = upstream.configured_gradient_learner(num_meta_steps)
    estimators = upstream.build_gradient_estimators(estimator_key, num_estimators, task_families)
    families = [upstream.task_family_of(estimator) for estimator in estimators]
    learned_opt = upstream.learned_opt_of(estimators[0])
    for number, family in enumerate(families):
        check_fit(family, learned_opt)
        _tell_parts(family, progress)
        # Estimators of one family would otherwise all see the same batches.
        reseed(family.datasets, number)
    folder.mkdir(parents=True, exist_ok=True)

    learner_state = learner.init(theta_key)
    weights = learner.get_state_for_worker(learner_state)
    unrolls = [
        estimator.init_worker_state(weights, unroll_key)
        for estimator, unroll_key in zip(
            estimators, jax.random.split(state_key, len(estimators)), strict=True
        )
    ]
    checkpoints = Checkpoints(folder / "checkpoints", keep_checkpoints)
    done = 0
    if resume and checkpoints.latest is not None:
        done, (learner_state, unrolls, key), info = checkpoints.restore(
            (learner_state, unrolls, key)
        )
        for family, saved in zip(families, info["positions"], strict=True):
            restore_positions(family.datasets, saved)

    def save(meta_step: int) -> None:
        log.flush()
        info = {"positions": [positions(family.datasets) for family in families]}
        checkpoints.save(meta_step, (learner_state, unrolls, key), info)
        theta = upstream.meta_params(learner, learner_state)
        trained_on = _trained_on(families, meta_step, local_learning_rate)
        save_theta(folder / "theta", learned_opt, theta, trained_on)

    log = MetaTrainLog(folder, done, num_meta_steps, progress)
    begin = time.perf_counter()
    try:
        for meta_step in range(done + 1, num_meta_steps + 1):
            key, gradient_key, update_key = jax.random.split(key, 3)
            out = upstream.gradient_worker_compute(
                learner.get_state_for_worker(learner_state),
                estimators,
                unrolls,
                gradient_key,
                with_metrics=False,
            )
            unrolls = out.unroll_states
            learner_state, _ = learner.update(learner_state, [out.to_put], key=update_key)
            log.write(
                {
                    "meta_step": meta_step,
                    "meta_loss": float(out.to_put.mean_loss),
                    "meta_gradient_norm": float(optax.tree.norm(out.to_put.theta_grads)),
                    "seconds": round(time.perf_counter() - begin, 3),
                }
            )
            if meta_step == done + 1:
                (folder / "config.gin").write_text(gin.operative_config_str(), encoding="utf-8")
            if meta_step % checkpoint_every == 0 and meta_step != num_meta_steps:
                save(meta_step)
        if done < num_meta_steps:
            save(num_meta_steps)
    finally:
        log.close()
        checkpoints.close()
    return learned_opt, jax.tree.map(np.asarray, upstream.meta_params(learner, learner_state))


def _tell_parts(family: upstream.TaskFamily, aloud: bool) -> None:
    sizes = part_sizes(family.datasets)
    if aloud and sizes is not None:
        print(f"{family.name}: training examples of each worker: {sizes}", file=sys.stderr)


def _trained_on(
    families: Sequence[upstream.TaskFamily], meta_steps: int, local_learning_rate: float | None
) -> dict[str, Any]:
    tasks = dict.fromkeys(getattr(family, "inner", family).name for family in families)
    known: dict[str, Any] = {"task": ", ".join(tasks), "meta_steps": meta_steps}
    family = families[0]
    if isinstance(family, LocalSGDTaskFamily):
        known["num_workers"] = family.num_workers
        known["num_local_steps"] = family.num_local_steps
        known["local_learning_rate"] = local_learning_rate
    return known
