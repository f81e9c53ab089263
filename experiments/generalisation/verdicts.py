"""What is asked of a learned method, and on how many tasks it came so."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["CRITERIA", "Criterion", "rate_spreads", "verdicts"]

Entry = Mapping[str, Any]
Judge = Callable[[Entry, Mapping[str, Any]], bool | None]
"""Takes a method's entry and the problem's results; None where a baseline is missing."""

_HELDOUT_TOLERANCE = 1.02
_FALLING = "MuLoCoLinear"


@dataclasses.dataclass(frozen=True)
class Criterion:
    """Something that is asked.

    Attributes:
      text: for the table.
      holds: whether it came so on one problem.
      needed: on how many of the ten tasks it is asked.
    """

    text: str
    holds: Judge
    needed: int


def _loss(entry: Entry) -> float:
    """The final training loss, infinite if a seed diverged."""
    loss = entry["final_train_loss"]
    return math.inf if loss is None or entry["diverged_seeds"] else loss


def _baselines(results: Mapping[str, Any]) -> dict[str, Entry]:
    return {label: e for label, e in results["methods"].items() if not e["learned"]}


def _below(chosen: Callable[[str, Entry], bool]) -> Judge:
    def judge(entry: Entry, results: Mapping[str, Any]) -> bool | None:
        others = [e for label, e in _baselines(results).items() if chosen(label, e)]
        return all(_loss(entry) < _loss(other) for other in others) if others else None

    return judge


def _reaches(baseline: str, share: float) -> Judge:
    def judge(entry: Entry, results: Mapping[str, Any]) -> bool | None:
        if baseline not in results["methods"]:
            return None
        target = f"final_loss_of_{baseline}"
        if target not in results["targets"]:  # It diverged.
            return math.isfinite(_loss(entry))
        rounds = entry["rounds_to"][target]
        return (
            not entry["diverged_seeds"]
            and rounds is not None
            and rounds <= share * results["problem"]["num_rounds"]
        )

    return judge


def _heldout(left_out: str | None = None) -> Judge:
    def judge(entry: Entry, results: Mapping[str, Any]) -> bool | None:
        baselines = {n: e for n, e in _baselines(results).items() if n != left_out}
        losses = [e["heldout"]["loss"] for e in baselines.values()]
        finite = [loss for loss in losses if loss is not None]
        loss = entry["heldout"]["loss"]
        return None if not finite else loss is not None and loss <= _HELDOUT_TOLERANCE * min(finite)

    return judge


def _all_of(*judges: Judge) -> Judge:
    def judge(entry: Entry, results: Mapping[str, Any]) -> bool | None:
        found = [one(entry, results) for one in judges]
        return None if None in found else all(found)

    return judge


_LOCAL = _below(lambda label, entry: entry["sends"] != "gradient")
_CONSTANT = _below(lambda label, entry: entry["sends"] != "gradient" and label != _FALLING)
_EARLY = (_reaches("LocalSGD", 0.5), _reaches("SlowMo", 0.75), _reaches("DiLoCo", 0.75))

CRITERIA: tuple[Criterion, ...] = (
    Criterion("final training loss below every tuned baseline of local steps", _LOCAL, 8),
    Criterion(f"the same but for {_FALLING}, whose γ falls over T", _CONSTANT, 8),
    Criterion("tuned Local SGD's final loss in at most half the rounds", _EARLY[0], 8),
    Criterion("tuned SlowMo's final loss in at most 0.75 of the rounds", _EARLY[1], 8),
    Criterion("tuned DiLoCo's final loss in at most 0.75 of the rounds", _EARLY[2], 8),
    Criterion("all of these", _all_of(_LOCAL, *_EARLY), 8),
    Criterion(f"all of these but for {_FALLING}", _all_of(_CONSTANT, *_EARLY), 8),
    Criterion(
        "final training loss below tuned data-parallel Adam's",
        _below(lambda label, entry: label == "DataParallelAdam"),
        7,
    ),
    Criterion(
        "final training loss below every tuned baseline, data-parallel ones included",
        _below(lambda label, entry: True),
        7,
    ),
    Criterion("held-out loss at most 2 % above the best baseline's", _heldout(), 8),
    Criterion(f"the same but for {_FALLING}", _heldout(_FALLING), 8),
    Criterion("no seed diverged", lambda entry, results: not entry["diverged_seeds"], 10),
)


def verdicts(
    tasks: Mapping[str, int], all_results: Mapping[str, Mapping[str, Any]], num_tasks: int = 10
) -> dict[str, list[dict[str, Any]]]:
    """For each learned method by label, what came of each criterion.

    A task with variants counts if it came so in each of them, and only if all have been run.

    Args:
      tasks: number of the task of each problem, by the problem's name.
      all_results: results of the problems that have been run, by name.
      num_tasks: how many tasks there are.
    """
    labels = dict.fromkeys(
        label
        for results in all_results.values()
        for label, entry in results["methods"].items()
        if entry["learned"]
    )
    return {
        label: [_verdict(label, criterion, tasks, all_results, num_tasks) for criterion in CRITERIA]
        for label in labels
    }


def _verdict(
    label: str,
    criterion: Criterion,
    tasks: Mapping[str, int],
    all_results: Mapping[str, Mapping[str, Any]],
    num_tasks: int,
) -> dict[str, Any]:
    held = {
        name: criterion.holds(results["methods"][label], results)
        for name, results in all_results.items()
        if label in results["methods"]
    }
    measured = {name: value for name, value in held.items() if value is not None}
    by_task = [
        [measured.get(name) for name, number in tasks.items() if number == task]
        for task in sorted(set(tasks.values()))
    ]
    won = sum(all(variants) for variants in by_task)
    return {
        "criterion": criterion.text,
        "needed": criterion.needed,
        "tasks": num_tasks,
        "tasks_measured": sum(None not in variants for variants in by_task),
        "tasks_won": won,
        "variants_measured": len(measured),
        "variants_won": sum(measured.values()),
        "lost": [name for name, value in measured.items() if not value],
        "met": won >= criterion.needed,
    }


def rate_spreads(all_results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How much the local learning rate matters to each theta that ran with several of them.

    Returns:
      For each theta and problem "label" (of its first entry), "problem", "losses" as pairs of
      a rate and a final training loss (None if a seed diverged), and "worst_over_best" (None if
      one diverged).
    """
    spreads = []
    for name, results in all_results.items():
        by_theta: dict[str, dict[str, Entry]] = {}
        for label, entry in results["methods"].items():
            if entry["learned"]:
                by_theta.setdefault((entry["theta"] or {}).get("sha256", label), {})[label] = entry
        for entries in by_theta.values():
            rated = [(e["hparams"].get("local_learning_rate"), _loss(e)) for e in entries.values()]
            losses = sorted(pair for pair in rated if pair[0] is not None)
            if len(losses) > 1:
                worst, best = (function(loss for _, loss in losses) for function in (max, min))
                spreads.append(
                    {
                        "label": next(iter(entries)),
                        "problem": name,
                        "losses": [
                            [r, loss if math.isfinite(loss) else None] for r, loss in losses
                        ],
                        "worst_over_best": worst / best if math.isfinite(worst) else None,
                    }
                )
    return spreads
