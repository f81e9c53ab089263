"""One meta-training run in its folder: where it starts, a meta-step, what it saves."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import gin
import jax
import numpy as np
import optax

from comm_lopt import upstream
from comm_lopt.atomic import remove_leftovers, replacing
from comm_lopt.data.feeding.positions import positions, restore_positions
from comm_lopt.meta_train.checkpoints import Checkpoints
from comm_lopt.meta_train.errors import RunStopped, writing
from comm_lopt.meta_train.log import (
    METRICS_FILE,
    SKIPPED_FILE,
    VALIDATION_FILE,
    MetaTrainLog,
    of_family,
)
from comm_lopt.meta_train.not_finite import (
    WatchedEstimator,
    begin_anew,
    diagnosis,
    find_not_finite,
)
from comm_lopt.meta_train.progress import Progress
from comm_lopt.meta_train.settings import require_same_settings, run_settings
from comm_lopt.meta_train.stop_signals import StopSignals
from comm_lopt.meta_train.trained_on import trained_on
from comm_lopt.meta_train.validation import Validation
from comm_lopt.theta import FILE_NAME, save_theta
from comm_lopt.versions import versions

__all__ = ["Run", "RunParts"]

PyTree = Any

_CONFIG_FILE = "config.gin"
_THETA, _BEST_THETA = "theta", "best_theta"
# Where theta started: a setting of a run.
_STARTED_FROM, _RANDOM = "init_theta", "random"


@dataclasses.dataclass(frozen=True)
class RunParts:
    """What a run is made of.

    Attributes:
      folder: the run's folder.
      learner: updates theta.
      estimators: one or more for each task family.
      families: the task family of each estimator.
      learned_opt: the optimizer that is meta-trained.
      seed: of the run.
      num_meta_steps: of the whole run.
      family_names: one for each of the families that are meta-trained on; those of the first are
        the first estimators, and so on, equally many for each.
      validation: judges theta while the run goes; None: not.
      init_theta: where theta starts, in place of a random one.
      started_from: SHA-256 of the file that `init_theta` is from.
    """

    folder: pathlib.Path
    learner: upstream.GradientLearner
    estimators: Sequence[WatchedEstimator]
    families: Sequence[upstream.TaskFamily]
    learned_opt: upstream.LearnedOptimizer
    seed: int
    num_meta_steps: int
    family_names: Sequence[str]
    validation: Validation | None = None
    init_theta: PyTree = None
    started_from: str | None = None


class _State(NamedTuple):
    """The arrays that decide how a run goes on."""

    learner: upstream.GradientLearnerState
    unrolls: Sequence[PyTree]
    key: jax.Array


class Run:
    """A run at its start, or where its newest whole checkpoint has it.

    Args:
      parts: what it is made of.
      checkpoints: of the same folder.
      theta_key: random key of the initial theta.
      unrolls_key: random key of the first inner problems.
      key: random key of the meta-steps.

    Raises:
      CheckpointError: there is a run, and none of its checkpoints is whole.
      ResumeError: there is a run of another problem.
      SaveError: the folder cannot be written.
    """

    def __init__(
        self,
        parts: RunParts,
        checkpoints: Checkpoints,
        theta_key: jax.Array,
        unrolls_key: jax.Array,
        key: jax.Array,
    ):
        self._parts = parts
        self._checkpoints = checkpoints
        self.progress = Progress()
        self._earlier_settings: dict[str, str] | None = None
        self._started_from = parts.started_from
        learner_state = upstream.learner_state(parts.learner, theta_key, parts.init_theta)
        weights = parts.learner.get_state_for_worker(learner_state)
        unrolls = [
            estimator.init_worker_state(weights, unroll_key)
            for estimator, unroll_key in zip(
                parts.estimators, jax.random.split(unrolls_key, len(parts.estimators)), strict=True
            )
        ]
        self._state = _State(learner_state, unrolls, key)
        with writing(parts.folder):
            for name in (_THETA, _BEST_THETA):
                remove_leftovers(parts.folder / name / FILE_NAME)
            for name in (_CONFIG_FILE, METRICS_FILE, SKIPPED_FILE, VALIDATION_FILE):
                remove_leftovers(parts.folder / name)
        if checkpoints.meta_steps or (parts.folder / METRICS_FILE).exists():
            self._restore()
        else:
            # From here on the folder holds a run, with a checkpoint to go on from at any time.
            self._save()
            checkpoints.check_whole(self.progress.meta_step)

    @property
    def theta(self) -> PyTree:
        """The meta-parameters as they stand."""
        return upstream.meta_params(self._parts.learner, self._state.learner)

    def go_on(
        self, log: MetaTrainLog, stop: StopSignals, checkpoint_every: int, max_skipped_in_a_row: int
    ) -> None:
        """Does the meta-steps that are left.

        Args:
          log: takes a row for each.
          stop: says whether to stop.
          checkpoint_every: meta-steps from one checkpoint to the next.
          max_skipped_in_a_row: so many that are not finite end the run.

        Raises:
          DivergedError: they were.
          RunStopped: `stop` said so; everything is saved.
          SaveError: the folder cannot be written.
        """
        begin = time.perf_counter() - self.progress.seconds
        first, last = self.progress.meta_step + 1, self._parts.num_meta_steps
        for meta_step in range(first, last + 1):
            error = self._meta_step(log, begin, max_skipped_in_a_row)
            if meta_step == first:
                self._check_settings_again()
                path = self._parts.folder / _CONFIG_FILE
                with writing(path.parent), replacing(path) as file:
                    file.write_text(gin.operative_config_str(), encoding="utf-8")
            validated = error is None and self._validate(log)
            stopping = error is not None or stop.requested is not None
            if meta_step % checkpoint_every == 0 or meta_step == last or stopping or validated:
                log.flush()
                self._save()
            if stopping or meta_step == last:
                self._checkpoints.wait()
            if error is not None:
                raise error
            if stop.requested is not None and meta_step != last:
                raise self._stopped(stop.requested)

    def _meta_step(
        self, log: MetaTrainLog, begin: float, max_skipped_in_a_row: int
    ) -> Exception | None:
        """One meta-step; returns the error with which the run is to end, if it is."""
        parts, state = self._parts, self._state
        key, gradient_key, update_key = jax.random.split(state.key, 3)
        weights = parts.learner.get_state_for_worker(state.learner)
        out = upstream.gradient_worker_compute(
            weights, parts.estimators, state.unrolls, gradient_key, with_metrics=False
        )
        meta_loss, norm = (
            float(out.to_put.mean_loss),
            float(optax.tree.norm(out.to_put.theta_grads)),
        )
        found = find_not_finite(self.progress.meta_step + 1, parts.estimators)
        learner_state, unrolls = state.learner, out.unroll_states
        if found:
            meta_loss = norm = math.nan
            unrolls = begin_anew(parts.estimators, unrolls, found, weights, gradient_key)
        else:
            learner_state, _ = parts.learner.update(learner_state, [out.to_put], key=update_key)
        self._state = _State(learner_state, unrolls, key)
        seconds = round(time.perf_counter() - begin, 3)
        self.progress = (
            self.progress.after_skipped(seconds)
            if found
            else self.progress.after_applied(meta_loss, seconds)
        )
        row = {
            "meta_step": self.progress.meta_step,
            "meta_loss": meta_loss,
            "meta_gradient_norm": norm,
            "skipped": self.progress.skipped,
            "seconds": seconds,
        }
        if len(parts.family_names) > 1:
            losses = np.array([float(estimator.meta_loss) for estimator in parts.estimators])
            of_each = losses.reshape(len(parts.family_names), -1).mean(-1)
            for name, loss in zip(parts.family_names, of_each, strict=True):
                row[of_family("meta_loss", name)] = float(loss)
        log.write(row, found)
        if not found or self.progress.skipped_in_a_row < max_skipped_in_a_row:
            return None
        return diagnosis(self.progress, found, self.theta, str(parts.folder / SKIPPED_FILE))

    def _validate(self, log: MetaTrainLog) -> bool:
        """Validates, if it is time to. A checkpoint then follows, so that it is not done again."""
        validation, meta_step = self._parts.validation, self.progress.meta_step
        if validation is None or not validation.is_due(meta_step, self._parts.num_meta_steps):
            return False
        row = validation.row(meta_step, self.theta)
        self.progress = self.progress.after_validation(row["mean_train_loss"])
        log.write_validation(row)
        return True

    def _save(self) -> None:
        """A checkpoint, theta, and the best theta if this is it."""
        parts = self._parts
        if parts.validation is None:
            self.progress = self.progress.at_checkpoint()
        progress = self.progress
        info = {
            "progress": progress.to_json(),
            "positions": [positions(family.datasets) for family in parts.families],
            "settings": self._settings(),
            "num_meta_steps": parts.num_meta_steps,
            "config": gin.operative_config_str(),
            "versions": versions(),
        }
        self._checkpoints.save(progress.meta_step, self._state, info, progress.best_meta_step)
        self._write_theta()

    def _write_theta(self) -> None:
        parts, meta_step = self._parts, self.progress.meta_step
        told = trained_on(parts.families, meta_step)
        if self._started_from is not None:
            told["started_from"] = self._started_from
        with writing(parts.folder):
            save_theta(parts.folder / _THETA, parts.learned_opt, self.theta, told)
            if meta_step == self.progress.best_meta_step:
                save_theta(parts.folder / _BEST_THETA, parts.learned_opt, self.theta, told)

    def _restore(self) -> None:
        parts = self._parts

        def check(meta_step: int, info: dict[str, Any]) -> None:
            saved = info["settings"].get(_STARTED_FROM, _RANDOM)
            if self._started_from is None and saved != _RANDOM:
                self._started_from = saved
            saved_settings = {_STARTED_FROM: _RANDOM, **info["settings"]}
            require_same_settings(saved_settings, self._settings(), self._where(meta_step))

        restored = self._checkpoints.restore(self._state, check)
        self._state, info = restored.state, restored.info
        self.progress = Progress.from_json(info["progress"])
        for family, saved in zip(parts.families, info["positions"], strict=True):
            restore_positions(family.datasets, saved)
        self._earlier_settings = info["settings"]
        if info["versions"] != versions():
            warnings.warn(
                f"{parts.folder} was made with {info['versions']} and goes on with {versions()}; "
                "its numbers can differ from those of a run that was never stopped.",
                stacklevel=2,
            )
        if info["num_meta_steps"] != parts.num_meta_steps:
            print(
                f"num_meta_steps: {info['num_meta_steps']} until now, {parts.num_meta_steps} from "
                f"meta-step {restored.meta_step} on; so does the schedule of theta's optimizer.",
                file=sys.stderr,
            )
        # A process that was killed between its checkpoint and its theta left an older theta.
        self._write_theta()

    def _check_settings_again(self) -> None:
        """Compares what was called only in the first meta-step as well."""
        if self._earlier_settings is not None:
            where = self._where(self.progress.meta_step - 1)
            require_same_settings(self._earlier_settings, self._settings(), where)

    def _settings(self) -> dict[str, str]:
        parts = self._parts
        settings = run_settings(parts.seed, parts.families, parts.learned_opt)
        return {**settings, _STARTED_FROM: self._started_from or _RANDOM}

    def _where(self, meta_step: int) -> str:
        return f"meta-step {meta_step} in {self._parts.folder}"

    def _stopped(self, signal_number: int) -> RunStopped:
        return RunStopped(
            f"stopped after meta-step {self.progress.meta_step} of {self._parts.num_meta_steps}, "
            f"which is saved in {self._parts.folder}; the same command with --resume goes on.",
            signal_number,
        )
