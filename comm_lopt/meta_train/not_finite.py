"""Meta-gradients and meta-losses that are not finite: found, placed, and told."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from comm_lopt import upstream
from comm_lopt.long_runs.errors import DivergedError
from comm_lopt.meta_train.progress import Progress

__all__ = ["NotFinite", "WatchedEstimator", "begin_anew", "diagnosis", "find_not_finite"]

PyTree = Any


@dataclasses.dataclass(frozen=True)
class NotFinite:
    """Where a number that is not finite came from.

    Attributes:
      meta_step: the meta-step that was not applied.
      estimator: number of the gradient estimator.
      task: name of its task family.
      problem: number of the inner problem, or None where upstream does not say.
      inner_step: its round, or None. Upstream tells the losses of the positive perturbations
        only; what goes wrong in a negative one is known by its meta-gradient alone.
      what: "loss" of an inner problem, "meta-loss" or "meta-gradient".
      process: number of the process.
    """

    meta_step: int
    estimator: int
    task: str
    problem: int | None
    inner_step: int | None
    what: str
    process: int = 0


class WatchedEstimator:
    """A gradient estimator that keeps its last estimate, and otherwise is the one it wraps.

    Upstream's `gradient_worker_compute` replaces what is not finite by zeros and 20s, and says
    nothing; here it can still be seen.

    Args:
      estimator: of upstream.

    Attributes:
      meta_loss: of the last estimate.
    """

    def __init__(self, estimator: upstream.GradientEstimator):
        self._estimator = estimator
        self._estimate: tuple[Any, PyTree, Any] | None = None
        self.meta_loss: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._estimator, name)

    def compute_gradient_estimate(self, *args: Any, **kwargs: Any) -> Any:
        """As that of the estimator."""
        out, metrics = self._estimator.compute_gradient_estimate(*args, **kwargs)
        # Not the unroll state, which would be kept in memory beside the next one.
        self.meta_loss = out.mean_loss
        self._estimate = (out.mean_loss, out.grad, out.unroll_info)
        return out, metrics

    def take_estimate(self) -> tuple[Any, PyTree, Any]:
        """Returns the last meta-loss, meta-gradient and unroll info, once."""
        estimate, self._estimate = self._estimate, None
        if estimate is None:
            raise RuntimeError("no estimate to take; call compute_gradient_estimate first.")
        return estimate


def find_not_finite(meta_step: int, estimators: Sequence[WatchedEstimator]) -> list[NotFinite]:
    """What is not finite in this process's last estimates; nothing if all is well."""
    found = []
    for number, estimator in enumerate(estimators):
        meta_loss, gradient, unroll_info = estimator.take_estimate()
        finite = np.asarray(_finite(meta_loss, gradient))
        if finite.all():
            continue
        task = upstream.task_family_of(estimator).name
        places = _places(unroll_info)
        if not places:
            places = [(None, None, "meta-gradient" if finite[0] else "meta-loss")]
        found += [
            NotFinite(meta_step, number, task, *place, jax.process_index()) for place in places
        ]
    return found


def begin_anew(
    estimators: Sequence[WatchedEstimator],
    unrolls: Sequence[PyTree],
    found: Sequence[NotFinite],
    weights: upstream.WorkerWeights,
    key: jax.Array,
) -> list[PyTree]:
    """Returns the unrolls with new inner problems for the estimators in `found`.

    An inner state or an accumulator that is not finite would spoil every meta-step until its
    inner problem ends, so all inner problems of that estimator begin anew.
    """
    broken = {place.estimator for place in found}
    return [
        estimator.init_worker_state(weights, jax.random.fold_in(key, number))
        if number in broken
        else unroll
        for number, (estimator, unroll) in enumerate(zip(estimators, unrolls, strict=True))
    ]


def diagnosis(
    progress: Progress, found: Sequence[NotFinite], theta: PyTree, where: str
) -> DivergedError:
    """Returns the error that ends a run in which too many meta-steps in a row were skipped."""
    tasks = ", ".join(dict.fromkeys(place.task for place in found))
    whats = ", ".join(dict.fromkeys(place.what for place in found))
    steps = [place.inner_step for place in found if place.inner_step is not None]
    first = f", first in round {min(steps)} of an inner problem" if steps else ""
    losses = progress.recent_losses
    last = f"the last finite meta-loss was {losses[-1]:.4g}" if losses else "none was finite"
    largest = max(float(np.max(np.abs(leaf), initial=0.0)) for leaf in jax.tree.leaves(theta))
    return DivergedError(
        f"{progress.skipped_in_a_row} meta-steps in a row were not finite, up to meta-step "
        f"{progress.meta_step}: {whats} of {tasks}{first}; {last}; the largest weight of theta "
        f"is {largest:.4g}. Inner problems began anew after each, so the cause is in the "
        "problem or in theta: lower local_learning_rate if it happens from the start, "
        "ThetaAdamW.learning_rate if it came with training, and see that the task's normalizer "
        f"caps its loss. {where} lists each case."
    )


@jax.jit
def _finite(meta_loss: jax.Array, gradient: PyTree) -> jax.Array:
    """[2]: whether the meta-loss and whether the meta-gradient is finite."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradient)]
    return jnp.stack([jnp.all(jnp.isfinite(meta_loss)), jnp.all(jnp.stack(leaves))])


def _places(unroll_info: Any) -> list[tuple[int | None, int | None, str]]:
    """Inner problem and round of each problem's first loss that is not finite."""
    if unroll_info is None:
        return []
    losses, rounds = np.asarray(unroll_info.loss), np.asarray(unroll_info.iteration)
    if losses.ndim != 2 or losses.shape != rounds.shape:
        return []
    bad = ~np.isfinite(losses)
    problems = np.flatnonzero(bad.any(0))
    return [(int(p), int(rounds[bad[:, p].argmax(), p]), "loss") for p in problems]
