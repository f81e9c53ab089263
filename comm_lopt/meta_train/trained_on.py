"""What theta's header says of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comm_lopt import upstream
from comm_lopt.hyperparameters import plain
from comm_lopt.tasks.local_optimizers import local_optimizer_name
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily

__all__ = ["families_of", "trained_on"]


def trained_on(families: Sequence[upstream.TaskFamily], meta_steps: int) -> dict[str, Any]:
    """What theta's header says of its training: each family, and what is the same for all."""
    told: list[dict[str, Any]] = []
    for family in families:
        one: dict[str, Any] = {"task": getattr(family, "inner", family).name}
        if isinstance(family, LocalSGDTaskFamily):
            rate = family.local_learning_rate
            one |= {
                "num_workers": family.num_workers,
                "num_local_steps": family.num_local_steps,
                "local_optimizer": local_optimizer_name(family.local_opt),
                "local_learning_rate": list(rate) if isinstance(rate, tuple) else plain(rate),
                "local_state_persists": family.local_state_persists,
            }
        if one not in told:
            told.append(one)
    same = {n: v for n, v in told[0].items() if all(one.get(n) == v for one in told)}
    if isinstance(same.get("local_learning_rate"), list):
        del same["local_learning_rate"]
    tasks = ", ".join(dict.fromkeys(one["task"] for one in told))
    return {**same, "task": tasks, "meta_steps": meta_steps, "families": told}


def families_of(told: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Each family of what a header says; headers of before several families say it of one."""
    return told.get("families", [told])
