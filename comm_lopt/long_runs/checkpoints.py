"""Checkpoints of a meta-training or real run: whole or not there, and checked.

Orbax's CheckpointManager gives each its name when it is whole, keeps the newest and the best, and
removes what killed processes left. How arrays become files is ours: Orbax's own handlers search
for files by patterns, in which a folder's "[" or "*" means something else, refuse arrays of size
zero, keep no digest, and do not tell a damaged file from a disk that fails for a moment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import logging
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    LatestN,
    PreservationContext,
)
from orbax.checkpoint.future import CommitFutureAwaitingContractedSignals, Future

from comm_lopt.long_runs.checkpoint_files import (
    NOT_THERE,
    DamageError,
    named_leaves,
    packed,
    read_files,
    read_files_patiently,
    unpacked,
)
from comm_lopt.long_runs.errors import CheckpointError, ResumeError, SaveError

__all__ = ["Checkpoints", "Restored"]

PyTree = Any

_ORBAX_LOGGER = logging.getLogger("absl")
_STATE = "state"
_SLACK = 1 << 16


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

    Each is written to a temporary folder in the background and then given its name. It holds
    the SHA-256 of its files, so that damage is told from a whole one.

    Args:
      folder: where they lie; made if missing.
      keep: how many of the newest stay.
      unit: what is counted, for messages.
      flag: that chose the run's folder, for messages.

    Raises:
      SaveError: `folder` cannot be written.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        keep: int = 3,
        unit: str = "meta-step",
        flag: str = "--train_log_dir",
    ):
        self._unit, self._flag = unit, flag
        self._folder = folder.resolve()
        self._best = _TheBest()
        _ORBAX_LOGGER.addFilter(_is_not_of_orbax)
        # Of several processes of a run the one that saves does so alone.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(),
            active_processes={jax.process_index()},
            barrier_sync_key_prefix="checkpoints",
        )
        options = ocp.CheckpointManagerOptions(
            create=False,
            multiprocessing_options=alone,
            preservation_policy=AnyPreservationPolicy([LatestN(keep), self._best]),
            cleanup_tmp_directories=True,
            # The dates of earlier checkpoints, which can be damaged, are not needed.
            lightweight_initialize=True,
        )
        with self._saving("the folder of checkpoints"):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(
                self._folder, item_handlers={_STATE: _FilesHandler()}, options=options
            )

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
          ValueError: two arrays of `state` have one name.
        """
        files = packed(named_leaves(state), info)
        self.wait()
        self._best.meta_step = best
        with self._saving(f"the checkpoint of {self._unit} {meta_step}"):
            self._check_room(sum(map(len, files.values())))
            args = ocp.args.Composite(**{_STATE: _Files(files)})
            self._manager.save(meta_step, args=args, force=True)

    def wait(self) -> None:
        """Waits until what was saved is on disk and those that need not stay are removed.

        Raises:
          SaveError: it could not be written.
        """
        with self._saving("a checkpoint"):
            self._manager.wait_until_finished()

    def check_whole(self, meta_step: int) -> None:
        """Waits for a checkpoint and reads it back.

        Raises:
          SaveError: it could not be written, or is not what was saved.
        """
        self.wait()
        try:
            self._read(meta_step)
        except (DamageError, OSError) as error:
            raise SaveError(
                f"the checkpoint {self._folder / str(meta_step)} was written and cannot be read "
                f"back ({error}), so that the run could not be resumed; pass another "
                f"{self._flag}, on a disk that keeps what is written."
            ) from error

    def restore(self, template: Callable[[int, dict[str, Any]], PyTree]) -> Restored:
        """Returns the newest checkpoint that is whole.

        Newer ones that are damaged are renamed, and named in a warning.

        Args:
          template: called with the meta-step and the info before anything is renamed; returns a
            state of the same structure, and raises if they do not fit the run.

        Raises:
          CheckpointError: none is whole.
          ResumeError: the checkpoint is of another problem or optimizer than the template, or
            of an earlier format.
          OSError: a file cannot be read, which says nothing about what is in it.
        """
        damaged: dict[int, DamageError] = {}
        for meta_step in reversed(self.meta_steps):
            try:
                leaves, info = self._read(meta_step)
            except DamageError as damage:
                damaged[meta_step] = damage
                continue
            like = template(meta_step, info)
            self._check_fit(meta_step, leaves, like)
            if damaged:
                self._set_aside(damaged, meta_step)
            ordered = [jnp.asarray(leaves[name]) for name in named_leaves(like)]
            state = jax.tree.unflatten(jax.tree.structure(like), ordered)
            return Restored(meta_step, state, info)
        told = "; ".join(f"{number}: {damage}" for number, damage in damaged.items())
        raise CheckpointError(
            f"no checkpoint in {self._folder} is whole ({told or 'there is none'}); bring one "
            "back from a backup, or start in another folder."
        )

    def close(self) -> None:
        """Ends the background threads, after what is being written."""
        # An error of the last save has been raised by `wait`, or another one is on its way.
        with contextlib.suppress(Exception):
            self._manager.close()
        _ORBAX_LOGGER.removeFilter(_is_not_of_orbax)

    def _read(self, meta_step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        folder = self._folder / str(meta_step)
        try:
            return unpacked(read_files_patiently(folder / _STATE))
        except NOT_THERE as error:
            if (folder / "info" / "metadata").exists():
                raise ResumeError(
                    f"{folder} is of an earlier comm_lopt, in a format that this one does not "
                    "read; go on with the version that began the run, or start in another folder."
                ) from error
            raise DamageError(_short(error)) from error
        except OSError as error:
            raise OSError(
                f"the checkpoint {folder} cannot be read ({_short(error)}); nothing was changed. "
                "Mend the disk or its connection, then go on with --resume; if it cannot be "
                "mended, move that checkpoint away, and the one before it is taken."
            ) from error

    def _set_aside(self, damaged: Mapping[int, DamageError], taken: int) -> None:
        """Renames damaged checkpoints, of which something may still be saved by hand."""
        for number, damage in damaged.items():
            path = self._folder / str(number)
            names = (f"{number}.damaged{again or ''}" for again in itertools.count())
            aside = next(p for p in map(self._folder.joinpath, names) if not p.exists())
            path.rename(aside)
            warnings.warn(
                f"the checkpoint {path} is damaged ({damage}) and is now {aside.name}; going on "
                f"from the one before it, of {self._unit} {taken}.",
                stacklevel=3,
            )
        self._manager.reload()

    def _check_fit(
        self, meta_step: int, leaves: Mapping[str, np.ndarray], template: PyTree
    ) -> None:
        expected = {name: _kind(leaf) for name, leaf in named_leaves(template).items()}
        found = {name: _kind(leaf) for name, leaf in leaves.items()}
        names = sorted(expected.keys() | found.keys())
        different = [name for name in names if expected.get(name) != found.get(name)]
        if different:
            first = different[0]
            raise ResumeError(
                f"the checkpoint of {self._unit} {meta_step} in {self._folder} does not fit this "
                f"configuration: {len(different)} arrays differ, such as {first} "
                f"({found.get(first)} saved, {expected.get(first)} here); resume with the "
                "configuration it was started with, or start in another folder."
            )

    def _check_room(self, size: int) -> None:
        """Raises OSError if the disk is too full: Orbax's threads fail noisily, and late."""
        needed = size + _SLACK
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"{os.strerror(errno.ENOSPC)}: about {needed} bytes needed, {free} free",
            )

    @contextlib.contextmanager
    def _saving(self, what: str) -> Iterator[None]:
        try:
            yield
        # What Orbax raises is an open list.
        except Exception as error:
            try:
                whole = f"the newest that is there is of {self._unit} {self.meta_steps[-1]}"
            except (OSError, IndexError):
                whole = "there is no earlier one"
            raise SaveError(
                f"{what} cannot be written in {self._folder} ({_short(error)}); {whole}. Make "
                "room or mend the folder, then go on with --resume."
            ) from error


class _TheBest:
    """Orbax's policy that keeps one checkpoint, whichever `Progress` says it is at the time."""

    meta_step: int | None = None

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: PreservationContext
    ) -> Sequence[bool]:
        return [checkpoint.step == self.meta_step for checkpoint in checkpoints]


class _FilesHandler(ocp.AsyncCheckpointHandler):
    """Writes files as they are given, in the background."""

    async def async_save(self, directory: Any, args: _Files) -> list[Future]:
        # This future waits until the folder is there, which is made in the background as well.
        return [CommitFutureAwaitingContractedSignals(_write_files(directory, args.files))]

    def save(self, directory: Any, args: _Files) -> None:
        raise NotImplementedError("checkpoints are saved in the background")

    def restore(self, directory: Any, args: Any = None) -> dict[str, bytes]:
        return read_files(pathlib.Path(directory))


@ocp.args.register_with_handler(_FilesHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _Files(ocp.args.CheckpointArgs):
    files: Mapping[str, bytes]


async def _write_files(directory: Any, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        with pathlib.Path(directory / name).open("wb") as file:
            file.write(content)
            # On disk before the checkpoint has its name: a power cut must not empty it.
            file.flush()
            os.fsync(file.fileno())


def _kind(leaf: Any) -> str:
    """Such as "float32[8, 2]"."""
    return f"{np.asarray(leaf).dtype}{list(np.shape(leaf))}"


def _short(error: Exception) -> str:
    """The gist of an error; Orbax tells pages."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
    """Orbax logs each error of a save five times over, with tracebacks, and then raises it."""
    told_by_orbax = str(record.msg).startswith("[process=") or "orbax" in record.pathname
    return record.levelno < logging.WARNING or not told_by_orbax
