"""What a run says when it starts: versions, device, problems, theta."""

from __future__ import annotations

import math

import jax

from comm_lopt import upstream
from comm_lopt.meta_test.problem import batch_size_of
from comm_lopt.meta_train.parts import RunParts
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily
from comm_lopt.versions import versions

__all__ = ["device_line", "family_names", "opening", "theta_size"]


def opening(parts: RunParts, validation: str) -> list[str]:
    """Returns a few lines about a run that is about to start.

    Args:
      parts: what it is made of.
      validation: what is said of its validation.
    """
    estimators = parts.estimators[:: len(parts.estimators) // len(parts.family_names)]
    processes = []
    if jax.process_count() > 1:
        processes = [f"processes: {jax.process_count()}, each with tasks of its own"]
    return [
        "versions: " + ", ".join(f"{name} {number}" for name, number in versions().items()),
        device_line(upstream.num_devices_of(estimators[0])),
        *processes,
        *(
            f"problem: {_problem(name, estimator)}"
            for name, estimator in zip(parts.family_names, estimators, strict=True)
        ),
        f"theta: {theta_size(parts.learned_opt)} of {type(parts.learned_opt).__name__}"
        + (f", from {parts.started_from}" if parts.started_from else ""),
        f"validation: {validation}",
    ]


def theta_size(learned_opt: upstream.LearnedOptimizer) -> str:
    """Such as "2,402 numbers in 8 arrays"."""
    leaves = jax.tree.leaves(jax.eval_shape(learned_opt.init, jax.random.PRNGKey(0)))
    return f"{sum(math.prod(leaf.shape) for leaf in leaves):,} numbers in {len(leaves)} arrays"


def device_line(used: int) -> str:
    """Platform, kind and count of the devices, of which a run uses so many."""
    devices = jax.local_devices()
    kind = devices[0].device_kind
    of_kind = devices[0].platform + ("" if kind == devices[0].platform else f" ({kind})")
    unused = f", {used} used; several_devices.gin uses all" if used < len(devices) else ""
    return f"device: {len(devices)} x {of_kind}{unused}"


def family_names(families: list[upstream.TaskFamily]) -> list[str]:
    """A name for each family, that of its task; a number behind it tells equal ones apart."""
    names: list[str] = []
    for family in families:
        name = getattr(family, "inner", family).name
        count = 1 + sum(other.rpartition("#")[0] == name or other == name for other in names)
        names.append(name if count == 1 else f"{name}#{count}")
    return names


def _problem(name: str, estimator: upstream.GradientEstimator) -> str:
    family = upstream.task_family_of(estimator)
    told = [name]
    if isinstance(family, LocalSGDTaskFamily):
        told += [f"K = {family.num_workers}", f"H = {family.num_local_steps}"]
        datasets = family.inner.datasets
        if datasets is not None and batch_size_of(datasets) is not None:
            told.append(f"B = {batch_size_of(datasets)}")
    length = upstream.longest_problem(estimator)
    if length is not None:
        told.append(f"at most {length} rounds")
    return ", ".join(told)
