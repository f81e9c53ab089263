"""What the processes of a run tell each other: exchanges, and that they are of one run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from comm_lopt.processes.meeting import ProcessError

__all__ = [
    "exchanging",
    "from_first",
    "gathered",
    "gathered_in_first",
    "gathered_json",
    "require_agreement",
    "require_same_weights",
    "wait_for_all",
]

PyTree = Any

_SHOWN = 500
_STATUS = re.compile(r"[A-Z_]+: ")
# Of what each process tells the others, on the device at a time.
_PART = 1 << 26


def require_agreement(told: Mapping[str, Any]) -> None:
    """All processes call it, each with what it runs; an error in all where they differ.

    Args:
      told: JSON values, such as versions and settings.

    Raises:
      ProcessError: names the processes and what differs.
    """
    texts = gathered_json(told)
    first = texts[0]
    for process, other in enumerate(texts[1:], start=1):
        if other != first:
            lines = [
                f"  {name}: {_short(first.get(name))} in process 0, {_short(other.get(name))} in "
                f"process {process}"
                for name in sorted(first.keys() | other.keys())
                if first.get(name) != other.get(name)
            ]
            raise ProcessError(
                f"processes 0 and {process} are not of one run; start them with one command line "
                "and the same versions:\n" + "\n".join(lines)
            )


def require_same_weights(params: PyTree, when: str, what: str = "the global weights") -> None:
    """All processes call it; an error in all where their global weights are not the same bits.

    Args:
      params: the weights, or what else is to be the same, as they lie in this process.
      when: for the message.
      what: they are, for the message.

    Raises:
      ProcessError: names the processes.
    """
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        whole = leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf
        digest.update(np.asarray(whole).tobytes())
    digests = _gathered(np.frombuffer(digest.digest(), np.uint8))
    different = [n for n, row in enumerate(digests) if not np.array_equal(row, digests[0])]
    if different:
        raise ProcessError(
            f"{when} {what} of the processes {different} are not those of process 0: "
            "a machine computes other numbers (another processor or library), or a device is "
            "faulty; use equal machines."
        )


def gathered(tree: PyTree) -> list[PyTree]:
    """What each process has, in the order of processes; all of them call it.

    Every bit arrives as it was. Of up to 64 MiB it is one collective. Alone it is [tree].

    Args:
      tree: arrays and numbers, of the same shapes in all processes. They come back as NumPy arrays.

    Raises:
      ProcessError: another process is gone.
    """
    return _trees(tree, range(jax.process_count()))


def gathered_in_first(tree: PyTree) -> list[PyTree]:
    """As `gathered` in process 0, and [] in the others, which keep nothing in memory."""
    return _trees(tree, range(0 if jax.process_index() else jax.process_count()))


def from_first(tree: PyTree) -> PyTree:
    """What process 0 has; all processes call it, with trees of the same shapes."""
    return _trees(tree, range(1))[0]


def gathered_json(told: Any) -> list[Any]:
    """A JSON value of each process, of whatever length; all of them call it."""
    text = np.frombuffer(json.dumps(told, sort_keys=True).encode(), np.uint8)
    lengths = _gathered(np.array([len(text)], np.int32)).ravel()
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(text)] = text
    rows = zip(_gathered(padded), lengths, strict=True)
    return [json.loads(row[:length].tobytes()) for row, length in rows]


def wait_for_all() -> None:
    """Returns once all processes have called it."""
    _gathered(np.zeros(1, np.uint8))


@contextlib.contextmanager
def exchanging(what: str) -> Iterator[None]:
    """In this block processes exchange something.

    Raises:
      ProcessError: another process is gone.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # Where a program fails as it is started, jaxlib raises its status as a ValueError.
        of_runtime = isinstance(error, jax.errors.JaxRuntimeError) or _STATUS.match(str(error))
        if jax.process_count() == 1 or not of_runtime:
            raise
        raise ProcessError(
            f"process {jax.process_index()}: {what} failed ({str(error).splitlines()[0]:.200}); "
            "another process is gone, and says why itself. The same command with --resume goes on "
            "from the last checkpoint."
        ) from error


def _trees(tree: PyTree, kept: Sequence[int]) -> list[PyTree]:
    """The trees of these processes."""
    if jax.process_count() == 1:
        return [tree] * len(kept)
    leaves, structure = jax.tree.flatten(tree)
    # A number of Python is of the type that JAX gives it, in all processes.
    arrays = [np.asarray(jnp.asarray(leaf)) for leaf in leaves]
    own = np.frombuffer(b"".join(array.tobytes() for array in arrays), np.uint8)
    rows = [np.empty_like(own) for _ in kept]
    for start in range(0, own.size, _PART):
        part = slice(start, start + _PART)
        of_each = _gathered(own[part])
        for row, process in zip(rows, kept, strict=True):
            row[part] = of_each[process]
    ends = np.cumsum([array.nbytes for array in arrays])[:-1]
    return [
        jax.tree.unflatten(
            structure,
            [
                np.frombuffer(content.tobytes(), array.dtype).reshape(array.shape)
                for content, array in zip(np.split(row, ends), arrays, strict=True)
            ],
        )
        for row in rows
    ]


def _gathered(array: np.ndarray) -> np.ndarray:
    """[processes, ...]"""
    if jax.process_count() == 1:
        return array[None]
    with exchanging("an exchange"):
        return np.asarray(multihost_utils.process_allgather(array))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
