"""Checkpoints of a meta-training run, written by Orbax: whole or not there, and checked."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from comm_lopt.meta_train.errors import CheckpointError, ResumeError, SaveError

__all__ = ["Checkpoints", "Restored"]

PyTree = Any

_DIGEST = "sha256"
_EMPTY = "empty"
_BYTES_PER_ARRAY = 1024
_UNFINISHED = ("*orbax-checkpoint-tmp*", ".removed-*")


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint that was read.

    Attributes:
      meta_step: meta-steps done.
      state: of the template's structure.
      info: what was saved beside it.
    """

    meta_step: int
    state: PyTree
    info: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run, by meta-step; for one process at a time.

    Each is written to a temporary folder in the background and then given its name. It holds a
    SHA-256 of its content, so that damage is told from a whole one. What killed processes left
    is removed at the start.

    Args:
      folder: where they lie; made if missing.
      keep: how many of the newest stay.

    Raises:
      SaveError: `folder` cannot be written.
    """

    def __init__(self, folder: pathlib.Path, keep: int = 3):
        self._folder = folder.resolve()
        self._keep = keep
        self._best: int | None = None
        with self._saving("the folder of checkpoints"):
            self._folder.mkdir(parents=True, exist_ok=True)
            for pattern in _UNFINISHED:
                for leftover in self._folder.glob(pattern):
                    shutil.rmtree(leftover)
        handlers = {"state": ocp.StandardCheckpointHandler(), "info": ocp.JsonCheckpointHandler()}
        logging.getLogger("absl").addFilter(_is_not_orbax_error)
        self._checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(**handlers))

    @property
    def meta_steps(self) -> list[int]:
        """Meta-steps of the checkpoints that are there, ascending."""
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    def save(
        self, meta_step: int, state: PyTree, info: Mapping[str, Any], best: int | None = None
    ) -> None:
        """Starts to save; returns as soon as `state` may change again.

        Args:
          meta_step: meta-steps done.
          state: arrays.
          info: JSON values.
          best: meta-step of the checkpoint, possibly this one, that stays however old it is.

        Raises:
          SaveError: this or the one before could not be written.
        """
        # Copies: on a CPU an array of JAX and its view in NumPy share memory.
        leaves = {path: np.array(leaf) for path, leaf in _named_leaves(state)}
        info = {**info, _DIGEST: _digest(leaves, info)}
        # Orbax refuses arrays of size zero, which some optimizers have in their state.
        empty = {name: leaf for name, leaf in leaves.items() if not leaf.size}
        info[_EMPTY] = {name: [leaf.shape, leaf.dtype.str] for name, leaf in empty.items()}
        leaves = {name: leaf for name, leaf in leaves.items() if leaf.size}
        self.wait()
        with self._saving(f"the checkpoint of meta-step {meta_step}"):
            self._check_room(leaves)
            self._checkpointer.save(
                self._folder / str(meta_step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(leaves), info=ocp.args.JsonSave(info)
                ),
            )
        self._best = best

    def wait(self) -> None:
        """Waits until what was saved is on disk, then removes those that need not stay.

        Raises:
          SaveError: it could not be written.
        """
        with self._saving("a checkpoint"):
            self._checkpointer.wait_until_finished()
            for meta_step in self.meta_steps[: -self._keep]:
                if meta_step != self._best:
                    self._remove(meta_step)

    def restore(self, template: PyTree, check: Callable[[int, dict[str, Any]], None]) -> Restored:
        """Returns the newest checkpoint that is whole.

        Newer ones that are damaged are named in a warning, and removed.

        Args:
          template: a state of the same structure, as the run makes it at its start.
          check: called with the meta-step and the info before anything is removed; raises if
            they do not fit the run.

        Raises:
          CheckpointError: none is whole.
          ResumeError: the checkpoint is of another problem or optimizer than `template`.
        """
        damaged: dict[int, Exception] = {}
        for meta_step in reversed(self.meta_steps):
            try:
                leaves, info = self._read(meta_step)
            # What damage raises in Orbax, TensorStore and JSON is an open list.
            except Exception as error:
                damaged[meta_step] = error
                continue
            check(meta_step, info)
            self._check_fit(meta_step, leaves, template)
            for number, reason in damaged.items():
                warnings.warn(
                    f"the checkpoint {self._folder / str(number)} is damaged ({_short(reason)}); "
                    f"going on from the one before it, of meta-step {meta_step}.",
                    stacklevel=2,
                )
                self._remove(number)
            ordered = [jnp.asarray(leaves[name]) for name, _ in _named_leaves(template)]
            state = jax.tree.unflatten(jax.tree.structure(template), ordered)
            return Restored(meta_step, state, info)
        told = "; ".join(f"{number}: {_short(error)}" for number, error in damaged.items())
        raise CheckpointError(
            f"no checkpoint in {self._folder} is whole ({told or 'there is none'}); bring one "
            "back from a backup, or start in another folder."
        )

    def close(self) -> None:
        """Ends the background thread, after what is being written."""
        # An error of the last save has been raised by `wait`, or another one is on its way.
        with contextlib.suppress(Exception):
            self._checkpointer.close()

    def _read(self, meta_step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        restored = self._checkpointer.restore(
            self._folder / str(meta_step),
            args=ocp.args.Composite(state=ocp.args.StandardRestore(), info=ocp.args.JsonRestore()),
        )
        leaves = {name: np.asarray(leaf) for name, leaf in dict(restored["state"]).items()}
        info = dict(restored["info"])
        for name, (shape, dtype) in info.pop(_EMPTY, {}).items():
            leaves[name] = np.zeros(shape, dtype)
        if info.pop(_DIGEST) != _digest(leaves, info):
            raise ValueError("its content is not what was saved")
        return leaves, info

    def _check_fit(
        self, meta_step: int, leaves: Mapping[str, np.ndarray], template: PyTree
    ) -> None:
        expected = {name: _kind(leaf) for name, leaf in _named_leaves(template)}
        found = {name: _kind(leaf) for name, leaf in leaves.items()}
        names = sorted(expected.keys() | found.keys())
        different = [name for name in names if expected.get(name) != found.get(name)]
        if different:
            first = different[0]
            raise ResumeError(
                f"the checkpoint of meta-step {meta_step} in {self._folder} does not fit this "
                f"configuration: {len(different)} arrays differ, such as {first} "
                f"({found.get(first)} saved, {expected.get(first)} here); resume with the "
                "configuration it was started with, or start in another folder."
            )

    def _check_room(self, leaves: Mapping[str, np.ndarray]) -> None:
        """Raises OSError if the disk is too full: Orbax's threads fail noisily, and late."""
        # Orbax writes the arrays twice before it removes the first copy.
        size = sum(leaf.nbytes for leaf in leaves.values())
        needed = 2 * size + _BYTES_PER_ARRAY * len(leaves)
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"{os.strerror(errno.ENOSPC)}: about {needed} bytes needed, {free} free",
            )

    def _remove(self, meta_step: int) -> None:
        """Removes a checkpoint; one that is killed meanwhile has lost its name already."""
        removed = self._folder / f".removed-{meta_step}"
        (self._folder / str(meta_step)).replace(removed)
        shutil.rmtree(removed)

    @contextlib.contextmanager
    def _saving(self, what: str) -> Iterator[None]:
        try:
            yield
        # Orbax and TensorStore have their own names for a full disk.
        except Exception as error:
            try:
                whole = f"the newest that is there is of meta-step {self.meta_steps[-1]}"
            except (OSError, IndexError):
                whole = "there is no earlier one"
            raise SaveError(
                f"{what} cannot be written in {self._folder} ({_short(error)}); {whole}. Make "
                "room or mend the folder, then go on with --resume."
            ) from error


def _named_leaves(state: PyTree) -> list[tuple[str, Any]]:
    """Arrays with path names; "/" would make folders, so parts are joined by dots.

    Upstream's states begin with numbers of Python (a count of steps) where later an array is;
    JAX says of which type that is.
    """
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), jnp.asarray(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]


def _kind(leaf: Any) -> str:
    """Such as "float32[8, 2]"."""
    return f"{np.asarray(leaf).dtype}{list(np.shape(leaf))}"


def _digest(leaves: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(info, sort_keys=True).encode())
    for name in sorted(leaves):
        digest.update(f"\0{name}\0{_kind(leaves[name])}\0".encode())
        digest.update(np.ascontiguousarray(leaves[name]).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()


def _short(error: Exception) -> str:
    """The gist of an error; Orbax and TensorStore tell pages."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    if number:
        return os.strerror(int(number.group(1)))
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _is_not_orbax_error(record: logging.LogRecord) -> bool:
    """Orbax logs each error of a save five times over, with tracebacks, and then raises it."""
    told_by_orbax = str(record.msg).startswith("[process=") or "orbax" in record.pathname
    return record.levelno < logging.ERROR or not told_by_orbax
