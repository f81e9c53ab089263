"""What is compared, as it is written on the command line: LABEL=NAME:KEY=VALUE,..."""

from __future__ import annotations

import ast
import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from comm_lopt.hyperparameters import REQUIRED
from comm_lopt.meta_test.check_results import ResultsError, check_sweep, read_json
from comm_lopt.meta_test.problem import Problem, differences
from comm_lopt.meta_train.trained_on import families_of
from comm_lopt.methods import LOCAL_LEARNING_RATE, Method, hand_designed, learned
from comm_lopt.pretrained.loading import load
from comm_lopt.theta import load_theta, theta_file

__all__ = ["SWEEP_FILE", "key_value", "method_of_spec", "method_of_sweep", "method_of_theta"]

SWEEP_FILE = "sweep.json"
_LOCAL_OPT = "local_opt"
_HEADER, _CARD = "theta's header", "theta's card"
# Behind a path, which may have colons and equals signs of its own.
_TRAILING = re.compile(r":((?:\w+=[^,:/=]+)(?:,\w+=[^,:/=]+)*)$")


def method_of_spec(spec: str) -> Method:
    """A hand-designed method: "SlowMo", "LABEL=SlowMo:momentum=0.9,local_opt=local_adamw"."""
    named, _, values = spec.partition(":")
    label, equals, name = named.partition("=")
    hparams = _hparams(values)
    local_opt = hparams.pop(_LOCAL_OPT, None)
    return hand_designed(name if equals else label, label, local_opt, **hparams)


def method_of_theta(spec: str, problem: Problem | None = None) -> Method:
    """A learned method: "DIR", "LABEL=DIR:local_learning_rate=0.3". For DIR also
    whatever else `load` takes.

    What theta's card recommends, or its header says of its training, is used where nothing is
    given.

    Args:
      spec: the folder, with a label and values or without.
      problem: what it is for, on whose H and K the card's γ may depend; None: of 1 each.

    Raises:
      FileNotFoundError: no theta there.
      ThetaError: it or its card cannot be used.
      ValueError: no such hyperparameter or name.
    """
    label, path = _labelled(spec)
    trailing = None if os.path.exists(path) else _TRAILING.search(spec)
    if trailing:
        label, path = _labelled(spec[: trailing.start()])
    hparams = _hparams(trailing[1]) if trailing else {}
    found = load(path)
    families = families_of(found.trained_on)
    trained_with = {family.get("local_optimizer", "local_sgd") for family in families}
    local_opt = hparams.pop(_LOCAL_OPT, None)
    by_header = local_opt is None or trained_with == {local_opt}
    if local_opt is None:
        (local_opt,) = trained_with if len(trained_with) == 1 else (None,)
        if local_opt is None:
            raise ValueError(
                f"--theta {spec}: it was meta-trained with the local optimizers {trained_with}; "
                f"choose one, as in {path}:{_LOCAL_OPT}=local_sgd."
            )
    method = learned(found.learned_opt, found.theta, label, local_opt, found.file)
    persists = {family.get("local_state_persists") for family in families}
    if by_header and len(persists) == 1:
        method = _with_persistence(method, persists.pop())
    if by_header and LOCAL_LEARNING_RATE in method.hparams:
        rate, source = _trained_rate([family.get(LOCAL_LEARNING_RATE) for family in families])
        if found.card is not None:
            sizes = (1, 1) if problem is None else (problem.num_local_steps, problem.num_workers)
            rate, source = found.card.recommended.rate(*sizes), _CARD
        method = method.with_values(source, **{LOCAL_LEARNING_RATE: rate})
    return method.with_values("given", **hparams)


def method_of_sweep(spec: str, problem: Problem, seeds: Sequence[int]) -> Method:
    """A method at the best point of a sweep: "DIR", "LABEL=DIR".

    Args:
      spec: the folder, with a label or without.
      problem: on which it is to run, which must be the one that it was tuned on.
      seeds: of that run, none of which the sweep may have seen.

    Raises:
      FileNotFoundError: no sweep there, or its theta is gone.
      ValueError: another problem, seeds that the sweep saw, another theta than it had, or a file
        that is no sweep's.
    """
    label, folder = _labelled(spec)
    path = pathlib.Path(folder)
    file = path / SWEEP_FILE
    if not file.exists():
        raise FileNotFoundError(f"no {SWEEP_FILE} in {path}; pass the --out_dir of a sweep.")
    saved = read_json(file, check_sweep)
    different = differences(saved["problem"], problem.describe())
    if different:
        told = "".join(f"\n  {line}" for line in different)
        raise ValueError(
            f"{path} was tuned on another problem; sweep on this one. Not equal:{told}"
        )
    seen = sorted(set(saved["seeds"]) & set(seeds))
    if seen:
        raise ValueError(
            f"the sweep {path} has seen the seeds {', '.join(map(str, seen))}, on which it is to "
            "be compared; pass --seeds that no tuning has seen."
        )
    method = _saved_method(saved, label or saved["label"], path)
    recorded, sources = saved["method"]["hparams"], saved["method"]["sources"]
    values = {
        name: value
        for name, value in {**recorded, **saved["best"]}.items()
        if name in saved["best"]
        or sources.get(name) != "default"
        or method.values().get(name, value) != value
    }
    return method.with_values(f"sweep {path}", **values)


def _saved_method(saved: Mapping[str, Any], label: str, path: pathlib.Path) -> Method:
    """The method of a sweep, with today's values."""
    method = saved["method"]
    if not method["learned"]:
        return hand_designed(method["optimizer"], label, method["local_optimizer"])
    theta = method["theta"]
    if theta is None:
        raise ResultsError(f"{path} is of a learned optimizer and does not say where its theta is.")
    found = theta_file(theta["path"])
    if found["sha256"] != theta["sha256"]:
        raise ValueError(
            f"{theta['path']} is no longer the theta that the sweep {path} tuned; sweep again, or "
            "put back the theta with the SHA-256 that is in its sweep.json."
        )
    learned_opt, values, _ = load_theta(theta["path"])
    rebuilt = learned(learned_opt, values, label, method["local_optimizer"], found)
    return _with_persistence(rebuilt, method.get("local_state_persists"))


def _with_persistence(method: Method, recorded: Any) -> Method:
    """The method with what a file says of its local states; older files say nothing."""
    if not isinstance(recorded, bool):
        return method
    return dataclasses.replace(method, local_state_persists=recorded)


def _trained_rate(rates: Sequence[Any]) -> tuple[Any, str]:
    """The local learning rate that theta was meta-trained with, and how it was found."""
    if any(rate != rates[0] for rate in rates) or not rates or rates[0] is None:
        return REQUIRED, f"{_HEADER}, which has {', '.join(map(str, rates))}"
    if isinstance(rates[0], list):
        low, high = rates[0]
        return math.sqrt(low * high), f"{_HEADER} (middle of {low:g} to {high:g})"
    return rates[0], _HEADER


def _labelled(text: str) -> tuple[str | None, str]:
    """(label or None, path or name); what is there as it is written is no label."""
    path = os.path.expanduser(text)
    label, equals, rest = text.partition("=")
    if not equals or "/" in label or os.path.exists(path):
        return None, path
    return label, os.path.expanduser(rest)


def _hparams(text: str) -> dict[str, Any]:
    pairs = map(key_value, filter(None, text.split(",")))
    return {key: _value(value) for key, value in pairs}


def key_value(text: str) -> tuple[str, str]:
    """Splits KEY=VALUE.

    Raises:
      ValueError: it is none.
    """
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise ValueError(f"{text!r} is not of the form KEY=VALUE; write for example momentum=0.9.")
    return key, value


def _value(text: str) -> Any:
    """A number, True, False or None; everything else is text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, (bool, int, float, type(None))) else text
