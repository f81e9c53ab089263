"""Checkpoints of a meta-training run, written by Orbax: whole or not there."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

__all__ = ["Checkpoints"]

PyTree = Any


class Checkpoints:
    """The newest checkpoints of a run, by meta-step.

    Args:
      folder: where they lie; made if missing.
      keep: how many of the newest stay.
    """

    def __init__(self, folder: pathlib.Path, keep: int = 3):
        self._folder = folder
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=False
        )
        # Named here, so that a manager that has not saved yet can read what another one saved.
        handlers = {"state": ocp.StandardCheckpointHandler(), "info": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(
            folder.resolve(), options=options, item_handlers=handlers
        )

    @property
    def latest(self) -> int | None:
        """Meta-step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, meta_step: int, state: PyTree, info: Mapping[str, Any]) -> None:
        """Saves the arrays of `state` and the JSON values of `info`."""
        leaves = {path: np.asarray(leaf) for path, leaf in _named_leaves(state)}
        self._manager.save(
            meta_step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(leaves), info=ocp.args.JsonSave(dict(info))
            ),
        )

    def restore(self, template: PyTree) -> tuple[int, PyTree, dict[str, Any]]:
        """Returns the newest checkpoint's meta-step, state and info.

        Args:
          template: a state of the same structure, as the run makes it at its start.

        Raises:
          FileNotFoundError: there is no checkpoint.
          ValueError: the checkpoint is of another problem or optimizer than `template`.
        """
        step = self.latest
        if step is None:
            raise FileNotFoundError(f"no checkpoint in {self._folder}; start without resuming.")
        names_and_leaves = _named_leaves(template)
        saved_shapes = self._manager.item_metadata(step)["state"]
        expected = {name: np.shape(leaf) for name, leaf in names_and_leaves}
        found = {name: tuple(meta.shape) for name, meta in dict(saved_shapes).items()}
        if expected != found:
            different = sorted(
                name
                for name in expected.keys() | found.keys()
                if expected.get(name) != found.get(name)
            )
            first = different[0]
            raise ValueError(
                f"the checkpoint of meta-step {step} in {self._folder} does not fit this "
                f"configuration: {len(different)} arrays differ, such as {first} "
                f"({found.get(first)} saved, {expected.get(first)} here); resume with the "
                "configuration it was started with, or start in another folder."
            )
        targets = {
            name: np.zeros(np.shape(leaf), np.asarray(leaf).dtype)
            for name, leaf in names_and_leaves
        }
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(targets), info=ocp.args.JsonRestore()
            ),
        )
        leaves = [jax.numpy.asarray(restored["state"][name]) for name, _ in names_and_leaves]
        info = json.loads(json.dumps(restored["info"]))
        return step, jax.tree.unflatten(jax.tree.structure(template), leaves), info

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()


def _named_leaves(state: PyTree) -> list[tuple[str, Any]]:
    """Leaves with path names; "/" would make folders, so parts are joined by dots."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]
