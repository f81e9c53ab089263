"""Times alternatives in turns, since a shared machine's speed drifts; ratios are what counts."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

import comm_lopt


def interleaved(
    functions: Mapping[str, Callable[[], Any]], repetitions: int = 9
) -> dict[str, list[float]]:
    """Seconds of each function in each repetition; in a repetition every function has its turn.

    Before it is timed it runs once: the first time it compiles, and later it would still pay for
    the memory that the function before it gives back.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repetitions):
        for name, function in functions.items():
            jax.block_until_ready(function())
            begin = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def median(seconds: list[float]) -> float:
    """Median over repetitions."""
    return float(np.median(seconds))


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median over repetitions of the ratio of two functions' times."""
    return float(np.median(np.asarray(numerator) / np.asarray(denominator)))


def write(out: str | None, figures: dict[str, Any]) -> None:
    """Prints figures as `as_json` has them, and writes them to `out` if given."""
    text = as_json(figures)
    print(text, end="")
    if out:
        pathlib.Path(out).write_text(text, encoding="utf-8")


def as_json(figures: Mapping[str, Any]) -> str:
    """Figures with versions and device, a file's text."""
    device = jax.devices()[0].device_kind
    whole = {"figures": figures, "device": device, "versions": comm_lopt.versions()}
    return json.dumps(whole, indent=2) + "\n"
