"""One meta-training run in its folder: where it starts, a meta-step, what it saves."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax

from comm_lopt import upstream
from comm_lopt.atomic import remove_leftovers, replacing
from comm_lopt.data.feeding.positions import positions, restore_positions
from comm_lopt.long_runs.checkpoints import Checkpoints, Restored
from comm_lopt.long_runs.errors import RunStopped, writing
from comm_lopt.long_runs.stop_signals import StopSignals
from comm_lopt.meta_train.exchange import exchange, key_of_process
from comm_lopt.meta_train.log import (
    METRICS_FILE,
    SKIPPED_FILE,
    VALIDATION_FILE,
    MetaTrainLog,
    of_family,
)
from comm_lopt.meta_train.not_finite import begin_anew, diagnosis, find_not_finite
from comm_lopt.meta_train.parts import RunParts
from comm_lopt.meta_train.progress import Progress
from comm_lopt.meta_train.settings import require_same_settings, run_settings
from comm_lopt.meta_train.trained_on import trained_on
from comm_lopt.processes import (
    from_first,
    gathered_in_first,
    gathered_json,
    require_same_weights,
    wait_for_all,
)
from comm_lopt.theta import FILE_NAME, save_theta
from comm_lopt.versions import versions

__all__ = ["Run"]

PyTree = Any

_CONFIG_FILE = "config.gin"
_THETA, _BEST_THETA = "theta", "best_theta"
# Where theta started: a setting of a run.
_STARTED_FROM, _RANDOM = "init_theta", "random"


class _State(NamedTuple):
    """The arrays that decide how a run goes on."""

    learner: upstream.GradientLearnerState
    unrolls: Sequence[PyTree]
    key: jax.Array


class Run:
    """A run at its start, or where its newest whole checkpoint has it.

    Args:
      parts: what it is made of.
      checkpoints: of the same folder; None in other processes than the first, which write nothing.
      theta_key: random key of the initial theta.
      unrolls_key: random key of the first inner problems.
      key: random key of the meta-steps.

    Raises:
      ProcessError: another process has another theta, or is gone.
      CheckpointError: there is a run, and none of its checkpoints is whole.
      ResumeError: there is a run of another problem.
      SaveError: the folder cannot be written.
    """

    def __init__(
        self,
        parts: RunParts,
        checkpoints: Checkpoints | None,
        theta_key: jax.Array,
        unrolls_key: jax.Array,
        key: jax.Array,
    ):
        self._parts = parts
        self._checkpoints = checkpoints
        self.progress = Progress()
        self._earlier_settings: dict[str, str] | None = None
        self._started_from = parts.started_from
        self._unroll_keys = jax.random.split(key_of_process(unrolls_key), len(parts.estimators))
        learner_state = upstream.learner_state(parts.learner, theta_key, parts.init_theta)
        self._state = _State(learner_state, self._first_unrolls(learner_state), key)
        begun = False
        if checkpoints is not None:
            with writing(parts.folder):
                for name in (_THETA, _BEST_THETA):
                    remove_leftovers(parts.folder / name / FILE_NAME)
                for name in (_CONFIG_FILE, METRICS_FILE, SKIPPED_FILE, VALIDATION_FILE):
                    remove_leftovers(parts.folder / name)
            begun = bool(checkpoints.meta_steps) or (parts.folder / METRICS_FILE).exists()
        if gathered_json(begun)[0]:
            self._restore()
            return
        # From here on the folder holds a run, with a checkpoint to go on from at any time.
        self._save()
        if checkpoints is not None:
            checkpoints.check_whole(self.progress.meta_step)

    @property
    def theta(self) -> PyTree:
        """The meta-parameters as they stand."""
        return upstream.meta_params(self._parts.learner, self._state.learner)

    def go_on(
        self,
        log: MetaTrainLog | None,
        stop: StopSignals,
        checkpoint_every: int,
        max_skipped_in_a_row: int,
    ) -> None:
        """Does the meta-steps that are left.

        Args:
          log: takes a row for each, in the first process.
          stop: says whether to stop.
          checkpoint_every: meta-steps from one checkpoint to the next.
          max_skipped_in_a_row: so many that are not finite end the run.

        Raises:
          DivergedError: they were.
          RunStopped: `stop` said so, in any process; everything is saved.
          ProcessError: another process has another theta, or is gone.
          SaveError: the folder cannot be written.
        """
        begin = time.perf_counter() - self.progress.seconds
        first, last = self.progress.meta_step + 1, self._parts.num_meta_steps
        for meta_step in range(first, last + 1):
            error, asked = self._meta_step(log, stop, begin, max_skipped_in_a_row)
            if meta_step == first and log is not None:
                self._check_settings_again()
                path = self._parts.folder / _CONFIG_FILE
                with writing(path.parent), replacing(path) as file:
                    file.write_text(gin.operative_config_str(), encoding="utf-8")
            validated = error is None and self._validate(log)
            if jax.process_count() == 1:
                # Whose own word is enough, that of a moment ago too.
                asked = stop.requested
            stopping = error is not None or asked is not None
            if meta_step % checkpoint_every == 0 or meta_step == last or stopping or validated:
                if log is not None:
                    log.flush()
                self._save()
            if stopping or meta_step == last:
                if self._checkpoints is not None:
                    self._checkpoints.wait()
                wait_for_all()
            if error is not None:
                raise error
            if asked is not None and meta_step != last:
                raise self._stopped(asked)

    def _meta_step(
        self, log: MetaTrainLog | None, stop: StopSignals, begin: float, max_skipped_in_a_row: int
    ) -> tuple[Exception | None, int | None]:
        """One meta-step.

        Returns:
          the error with which the run is to end, if it is, and the signal that asks it to.
        """
        parts, state = self._parts, self._state
        key, gradient_key, update_key = jax.random.split(state.key, 3)
        gradient_key = key_of_process(gradient_key)
        weights = parts.learner.get_state_for_worker(state.learner)
        out = upstream.gradient_worker_compute(
            weights,
            parts.estimators,
            state.unrolls,
            gradient_key,
            with_metrics=False,
            # Upstream's choice is a device of process 0.
            device=jax.local_devices()[0],
        )
        own = find_not_finite(self.progress.meta_step + 1, parts.estimators)
        losses = np.array([float(estimator.meta_loss) for estimator in parts.estimators])
        all_know = exchange(out.to_put, losses, own, stop.requested)
        found = all_know.not_finite
        meta_loss = float(all_know.out.mean_loss)
        norm = float(optax.tree.norm(all_know.out.theta_grads))
        learner_state, unrolls = state.learner, out.unroll_states
        if found:
            meta_loss = norm = math.nan
            unrolls = begin_anew(parts.estimators, unrolls, own, weights, gradient_key)
        else:
            learner_state, _ = parts.learner.update(learner_state, [all_know.out], key=update_key)
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
            of_each = all_know.meta_losses.reshape(len(parts.family_names), -1).mean(-1)
            for name, loss in zip(parts.family_names, of_each, strict=True):
                row[of_family("meta_loss", name)] = float(loss)
        if log is not None:
            log.write(row, found)
        if not found or self.progress.skipped_in_a_row < max_skipped_in_a_row:
            return None, all_know.signal_number
        skipped = str(parts.folder / SKIPPED_FILE)
        return diagnosis(self.progress, found, self.theta, skipped), all_know.signal_number

    def _validate(self, log: MetaTrainLog | None) -> bool:
        """Validates, if it is time to. A checkpoint then follows, so that it is not done again.

        The first process does it, while the others wait for it at that checkpoint.
        """
        validation, meta_step = self._parts.validation, self.progress.meta_step
        if validation is None or not validation.is_due(meta_step, self._parts.num_meta_steps):
            return False
        if log is not None:
            row = validation.row(meta_step, self.theta)
            self.progress = self.progress.after_validation(row["mean_train_loss"])
            log.write_validation(row)
        return True

    def _save(self) -> None:
        """A checkpoint, theta, and the best theta if this is it.

        It has the estimators of all processes, those of the first one first.
        """
        parts = self._parts
        if parts.validation is None:
            self.progress = self.progress.at_checkpoint()
        progress = self.progress
        self._require_same_theta()
        places = [positions(family.datasets) for family in parts.families]
        of_each = gathered_in_first((self._state.unrolls, places))
        if self._checkpoints is None:
            return
        state = self._state._replace(unrolls=[one for unrolls, _ in of_each for one in unrolls])
        info = {
            "progress": progress.to_json(),
            "positions": jax.tree.map(int, [one for _, places in of_each for one in places]),
            "settings": self._settings(),
            "num_meta_steps": parts.num_meta_steps,
            "config": gin.operative_config_str(),
            "versions": versions(),
        }
        self._checkpoints.save(progress.meta_step, state, info, progress.best_meta_step)
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
        """Goes on from what the first process reads; new processes have new inner problems."""
        parts, state = self._parts, self._state
        restored = None if self._checkpoints is None else self._read(self._checkpoints)
        info = gathered_json(None if restored is None else restored.info)[0]
        self.progress = Progress.from_json(info["progress"])
        if restored is not None:
            state = restored.state
        learner_state, key = from_first((state.learner, state.key))
        saved_by, size = self._processes_of(info), len(parts.estimators)
        unrolls = None
        for process in range(min(saved_by, jax.process_count())):
            start = process * size if restored is not None else 0
            one = from_first(state.unrolls[start : start + size])
            if process == jax.process_index():
                unrolls = jax.tree.map(jnp.asarray, one)
        learner_state, key = jax.tree.map(jnp.asarray, (learner_state, key))
        if unrolls is None:
            unrolls = self._first_unrolls(learner_state)
        else:
            start = jax.process_index() * size
            places = info["positions"][start : start + size]
            for family, saved in zip(parts.families, places, strict=True):
                restore_positions(family.datasets, saved)
        self._state = _State(learner_state, unrolls, key)
        self._require_same_theta()
        if restored is not None:
            # A process that was killed between its checkpoint and its theta left an older theta.
            self._write_theta()

    def _processes_of(self, info: Mapping[str, Any]) -> int:
        """How many processes a checkpoint was saved by."""
        return len(info["positions"]) // len(self._parts.estimators)

    def _read(self, checkpoints: Checkpoints) -> Restored:
        """The newest whole checkpoint; says where its run goes on otherwise than it was."""
        parts = self._parts

        def checked(meta_step: int, info: dict[str, Any]) -> _State:
            saved = info["settings"].get(_STARTED_FROM, _RANDOM)
            if self._started_from is None and saved != _RANDOM:
                self._started_from = saved
            saved_settings = {_STARTED_FROM: _RANDOM, **info["settings"]}
            require_same_settings(saved_settings, self._settings(), self._where(meta_step))
            unrolls = [*self._state.unrolls] * self._processes_of(info)
            return self._state._replace(unrolls=unrolls)

        restored = checkpoints.restore(checked)
        info = restored.info
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
        earlier, here = self._processes_of(info), jax.process_count()
        if earlier != here:
            print(
                f"processes: {earlier} until now, {here} from meta-step {restored.meta_step} on; "
                "those that are new begin with new inner problems, and the inner problems of those "
                "that are gone end.",
                file=sys.stderr,
            )
        return restored

    def _require_same_theta(self) -> None:
        when = f"after meta-step {self.progress.meta_step}"
        state = self._state.learner, self._state.key
        require_same_weights(state, when, "theta and its optimizer's state")

    def _first_unrolls(self, learner_state: upstream.GradientLearnerState) -> list[PyTree]:
        """New inner problems for each estimator."""
        weights = self._parts.learner.get_state_for_worker(learner_state)
        return [
            estimator.init_worker_state(weights, key)
            for estimator, key in zip(self._parts.estimators, self._unroll_keys, strict=True)
        ]

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
