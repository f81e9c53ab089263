"""The folder of a real run: who may write it, and the checkpoints, log and configuration in it."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import gin
import jax
import numpy as np

from comm_lopt.atomic import replacing
from comm_lopt.long_runs.checkpoints import Checkpoints
from comm_lopt.long_runs.errors import ResumeError
from comm_lopt.long_runs.own_folder import CHECKPOINTS, alone_in
from comm_lopt.meta_test.problem import Problem, differences
from comm_lopt.train.log import ROUNDS_FILE, TrainLog

__all__ = ["RunFolder"]

PyTree = Any

_CONFIG_FILE = "config.gin"


class RunFolder:
    """The folder of a run, in process 0; elsewhere nothing."""

    def __init__(self, folder: pathlib.Path, resume: bool, keep: int, stack: contextlib.ExitStack):
        self.folder = folder
        self._checkpoints: Checkpoints | None = None
        if jax.process_index():
            return
        stack.enter_context(alone_in(folder, ROUNDS_FILE, resume, "--out_dir"))
        self._checkpoints = Checkpoints(folder / CHECKPOINTS, keep, "round", "--out_dir")
        stack.callback(self._checkpoints.close)

    def restored(self, template: PyTree, told: Mapping[str, Any]) -> tuple[int, PyTree] | None:
        """(rounds done, state) of the newest whole checkpoint; None where there is none."""
        if self._checkpoints is None or not self._checkpoints.meta_steps:
            return None

        def checked(done: int, info: Mapping[str, Any]) -> PyTree:
            different = differences(info["problem"], cast(Any, told["problem"]))
            # T alone may change: a run can be made longer.
            different = [line for line in different if not line.startswith("num_rounds")]
            for name in ("method", "seed"):
                if info[name] != _as_json(told[name]):
                    different.append(f"{name}: {info[name]} there, {told[name]} here")
            if different:
                lines = "".join(f"\n  {line}" for line in different)
                raise ResumeError(
                    f"the checkpoint of round {done} in {self.folder} is of another run:{lines}\n"
                    "Resume with what it was started with, or pass another --out_dir."
                )
            return template

        found = self._checkpoints.restore(checked)
        return found.meta_step, jax.tree.map(np.asarray, found.state)

    def log(
        self,
        done: int,
        problem: Problem,
        measures: Sequence[str],
        progress: bool,
        stack: contextlib.ExitStack,
    ) -> TrainLog | None:
        """The log, in process 0."""
        if self._checkpoints is None:
            return None
        with replacing(self.folder / _CONFIG_FILE) as path:
            path.write_text(gin.operative_config_str(), encoding="utf-8")
        log = TrainLog(
            self.folder, done, problem.num_rounds, problem.num_workers, measures, progress
        )
        stack.callback(log.close)
        return log

    def save(self, done: int, state: PyTree, info: Mapping[str, Any]) -> None:
        """A checkpoint, in the background."""
        if self._checkpoints is not None and done not in self._checkpoints.meta_steps:
            self._checkpoints.save(done, state, info)

    def wait(self) -> None:
        """Until it is on disk."""
        if self._checkpoints is not None:
            self._checkpoints.wait()


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))
