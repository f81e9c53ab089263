"""What the processes of a meta-training run have of their own, and what they tell each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from comm_lopt.meta_train.not_finite import NotFinite
from comm_lopt.processes import gathered, gathered_json

__all__ = ["Exchanged", "exchange", "key_of_process"]

PyTree = Any

# `jax.random.split` folds in 0, 1, 2, ...: a key of a process must be none of those.
_FIRST_FOLD = 1 << 31


@dataclasses.dataclass(frozen=True)
class Exchanged:
    """What all processes know of a meta-step, the same bits in each.

    Attributes:
      out: what the gradient learner takes, with means over processes: theta's gradient, meta-loss.
      meta_losses: [estimators], means over processes of those that have one number.
      not_finite: of all processes.
      signal_number: the signal that asked one of them to stop, or None.
    """

    out: Any
    meta_losses: np.ndarray
    not_finite: Sequence[NotFinite]
    signal_number: int | None


def exchange(
    out: Any,
    meta_losses: np.ndarray,
    not_finite: Sequence[NotFinite],
    signal_number: int | None,
) -> Exchanged:
    """All processes call it after their estimates; one collective, and two where all is not well.

    The mean gradient of N processes, each with gᵢ of as many tasks, is (g₀ + ... + g_{N−1}) / N.
    It is taken by each process from all gᵢ in their order, in float64, so that it has the same
    bits in all. Alone everything is as it was given.

    Args:
      out: upstream's `AggregatedGradient` of this process.
      meta_losses: [estimators], of this process.
      not_finite: in this process.
      signal_number: that asked this process to stop, or None.

    Raises:
      ProcessError: another process is gone.
    """
    if jax.process_count() == 1:
        return Exchanged(out, meta_losses, not_finite, signal_number)
    own = (out, meta_losses), (len(not_finite), signal_number or 0)
    of_each, numbers = zip(*gathered(own), strict=True)
    out, meta_losses = jax.tree.map(_mean, *of_each)
    counts, signals = zip(*numbers, strict=True)
    if any(counts):
        told = gathered_json([dataclasses.asdict(place) for place in not_finite])
        not_finite = [NotFinite(**place) for places in told for place in places]
    return Exchanged(out, meta_losses, not_finite, int(max(signals)) or None)


def key_of_process(key: jax.Array) -> jax.Array:
    """A random key of this process's own; that of process 0 is the key itself."""
    index = jax.process_index()
    return key if index == 0 else jax.random.fold_in(key, _FIRST_FOLD + index)


def _mean(*leaves: np.ndarray) -> np.ndarray:
    mean = np.mean(np.stack(leaves), axis=0, dtype=np.float64)
    return np.asarray(mean, leaves[0].dtype)
