"""The figures of all benchmarks against what is wanted, as the table of docs/performance.md.

python experiments/benchmarks/table.py [--folder experiments/benchmarks/results]
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

RESULTS = pathlib.Path(__file__).parent / "results"
BENCHMARKS = ("learned_update", "meta_step", "sweep", "processes")


class Measure(NamedTuple):
    """One line of the table.

    Attributes:
      what: what is measured, and against what.
      of: its figure, out of the figures of a benchmark.
      limit: the figure that is wanted.
      at_least: whether `limit` is the smallest that will do, or the largest.
      form: how figures are written.
    """

    what: str
    benchmark: str
    of: Callable[[Any], float]
    limit: float
    at_least: bool
    form: str = "{:.2f}×"


def _update(problem: str, optimizer: str, figure: str) -> Callable[[Any], float]:
    return lambda figures: figures[problem][optimizer][figure]


_MLPS, _RESNET = "fashion_mnist_mlp_of_8_thetas", "resnet50"
_FASTER, _FEWER = "times_faster_than_upstream", "upstreams_temporaries_over_these"
_FLOATS = "temporary_floats_per_parameter"
_TIME = "nanoseconds_per_parameter"

MEASURES = (
    Measure(
        "LOpt-A update of 8 Fashion-MNIST MLPs, a theta each: faster than upstream's",
        "learned_update", _update(_MLPS, "LOptA", _FASTER), 4.0, True,
    ),
    Measure(
        "its temporaries: fewer than upstream's by",
        "learned_update", _update(_MLPS, "LOptA", _FEWER), 10.0, True, "{:.0f}×",
    ),
    Measure(
        "LOpt-A update of a ResNet-50 (25.6 million parameters): faster than upstream's",
        "learned_update", _update(_RESNET, "LOptA", _FASTER), 3.0, True,
    ),
    Measure(
        "LAgg-A update (K = 8) of the same: faster than upstream's LOpt-A",
        "learned_update", _update(_RESNET, "LAggA", _FASTER), 3.0, True,
    ),
    Measure(
        "LOptR update of the same: its time over LOpt-A's",
        "learned_update",
        lambda figures: figures[_RESNET]["LOptR"][_TIME] / figures[_RESNET]["LOptA"][_TIME],
        1.5, False,
    ),
    Measure(
        "temporaries of LOpt-A or LAgg-A, floats per parameter",
        "learned_update",
        lambda figures: max(figures[_RESNET][name][_FLOATS] for name in ("LOptA", "LAggA")),
        2.0, False, "{:.2f}",
    ),
    Measure(
        "PES meta-step: faster than with upstream's optimizer on float images from the host",
        "meta_step", lambda figures: figures["times_faster_than_upstreams_way"], 2.0, True,
    ),
    Measure(
        "the same meta-step over its local rounds alone",
        "meta_step", lambda figures: figures["over_local_rounds_alone"], 1.35, False,
    ),
    Measure(
        "seconds to the first meta-step, compiling included",
        "meta_step", lambda figures: figures["seconds_to_first_meta_step"]["ours"], 20.0, False,
        "{:.0f} s",
    ),
    Measure(
        "the same, H = 32 over H = 4",
        "meta_step", lambda figures: figures["first_step_at_H_32_over_H_4"], 1.2, False,
    ),
    Measure(
        "cost of K = 64 over 8 times that of K = 8",
        "meta_step", lambda figures: figures["cost_of_K_64_over_8_times_K_8"], 1.1, False,
    ),
    Measure(
        "sweep of 12 points × 5 seeds over the 12 runs one by one",
        "sweep", lambda figures: figures["time_over_one_by_one"], 1.0, False,
    ),
    Measure(
        "the same, compiling left out",
        "sweep", lambda figures: figures["time_over_one_by_one_compiled_before"], 1.0, False,
    ),
    Measure(
        "a meta-step of two processes with 8 tasks each over one's with 8",
        "processes", lambda figures: figures["twice_the_tasks_over_one_process"], 1.15, False,
    ),
)  # fmt: skip


def table(folder: pathlib.Path) -> str:
    """The table in Markdown, from the JSON files of a folder."""
    figures = {
        name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["figures"]
        for name in BENCHMARKS
    }
    lines = ["| measure | figure | wanted | reached |", "| --- | --- | --- | --- |"]
    for what, benchmark, of, limit, at_least, form in MEASURES:
        figure = of(figures[benchmark])
        reached = figure >= limit if at_least else figure <= limit
        wanted = f"at {'least' if at_least else 'most'} {limit:g}"
        lines.append(
            f"| {what} | {form.format(figure)} | {wanted} | {'yes' if reached else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=pathlib.Path, default=RESULTS)
    print(table(parser.parse_args().folder), end="")


if __name__ == "__main__":
    main()
