"""The page of a meta-training run: its meta-loss and validation over meta-steps."""

from __future__ import annotations

import html
import pathlib
from typing import Any

import numpy as np

from comm_lopt.meta_train.courses import RUNNING_MEAN, Course, read_courses
from comm_lopt.palette import COLOURS
from comm_lopt.report.charts import INK, Spec, drawn_places, line, loss_axis, plain_chart, rounded
from comm_lopt.report.page import chart, document, legend_of, sortable_table
from comm_lopt.report.tables import Cell
from comm_lopt.versions import versions

__all__ = ["run_page"]

_MEAN, _LAST = COLOURS[4].light, COLOURS[3].light


def run_page(folder: pathlib.Path) -> str:
    """One HTML page of the logs in a run's folder.

    Raises:
      FileNotFoundError: there are no logs.
      ResultsError: they are not those of a run.
      ImportError: the extra that pages need is not installed.
    """
    courses = read_courses(folder)
    body = []
    for course in courses:
        body.append(f"<h3>{html.escape(course.title)}</h3>")
        body.append(_legend(course))
        body.append(chart(_course_chart(course), _alt(course)))
    if courses[0].validated.size:
        body += ["<h3>Validations</h3>", _table(courses[0])]
    skipped = int((~np.isfinite(courses[0].meta_loss)).sum())
    lead = f'<p class="quiet">{courses[0].meta_steps.size:,} meta-steps'
    lead += f", {skipped:,} of them not finite and not applied" if skipped else ""
    lead += ".</p>"
    foot = ", ".join(f"{name} {version}" for name, version in versions().items())
    title = f"Meta-training in {folder.resolve().name}"
    return document(title, lead, body, f"Drawn with {foot}.")


def _course_chart(course: Course) -> Spec:
    places = drawn_places(course.meta_steps.size) if course.meta_steps.size else []
    steps, means = course.running_mean
    mean_at = dict(zip(steps.tolist(), means.tolist(), strict=True))
    rows: list[dict[str, Any]] = [
        {
            "step": (step := float(course.meta_steps[place])),
            "loss": rounded(float(course.meta_loss[place])),
            "mean": rounded(mean_at.get(step)),
        }
        for place in places
    ]
    names = dict(zip(("whole", "last"), course.validation, strict=True))
    checks: list[dict[str, Any]] = [
        {"step": float(step)}
        | {key: rounded(float(course.validation[name][v])) for key, name in names.items()}
        for v, step in enumerate(course.validated)
    ]
    drawn = [row[key] for row in rows for key in ("loss", "mean")]
    drawn += [row[key] for row in checks for key in names]
    y = loss_axis(drawn, "training loss")
    x = {"field": "step", "type": "quantitative", "title": "meta-steps", "scale": {"nice": False}}
    shown = {"loss": "meta-loss", "mean": f"mean of {RUNNING_MEAN}"}
    layers = [
        _layer(rows, line(INK["quiet"], 0.8) | {"opacity": 0.5}, "loss", y, shown),
        _layer(rows, line(INK["ink"], 1.8), "mean", y, shown),
    ]
    shown = {key: f"validation: {name}" for key, name in names.items()}
    for key, mark in (("whole", line(_MEAN, 2.0)), ("last", line(_LAST, 2.0, (5, 2.5)))):
        layers.append(
            _layer(checks, mark | {"point": {"size": 55, "color": mark["color"]}}, key, y, shown)
        )
    # Those that are nearest to the pointer, of either kind.
    for values, told in (
        (rows, {"loss": "meta-loss", "mean": f"mean of {RUNNING_MEAN}"}),
        (checks, shown),
    ):
        mark = {"type": "rule", "opacity": 0, "strokeWidth": 12 if values is checks else 4}
        layers.append(_layer(values, mark, "", {}, told))
    return plain_chart(340, encoding={"x": x}, layer=layers)


def _layer(
    rows: list[dict[str, Any]], mark: Spec, key: str, y: Spec, shown: dict[str, str]
) -> Spec:
    tooltip = [{"field": "step", "type": "quantitative", "title": "meta-step"}]
    tooltip += [
        {"field": name, "type": "quantitative", "format": ".4g", "title": title}
        for name, title in shown.items()
    ]
    encoding: Spec = {"tooltip": tooltip} | ({"y": {**y, "field": key}} if key else {})
    return {"data": {"values": rows}, "mark": mark, "encoding": encoding}


def _legend(course: Course) -> str:
    items = [
        (INK["quiet"], 0.8, "", "meta-loss"),
        (INK["ink"], 1.8, "", f"mean of {RUNNING_MEAN} meta-steps"),
    ]
    if course.validated.size:
        whole, last = course.validation
        items += [
            (_MEAN, 2.0, "", f"validation: {whole}"),
            (_LAST, 2.0, "5 2.5", f"validation: {last}"),
        ]
    return legend_of(items)


def _alt(course: Course) -> str:
    whole = next(iter(course.validation.values()))
    told = f"Meta-loss of {course.title} over {course.meta_steps.size} meta-steps"
    if whole.size:
        told += f"; validation goes from {whole[0]:.4g} to {whole[-1]:.4g}"
    return told + "."


def _table(course: Course) -> str:
    rows = []
    for v, step in enumerate(course.validated):
        cells = [Cell(f"{step:.0f}", float(step))]
        for values in course.validation.values():
            value = float(values[v])
            cells.append(Cell(f"{value:.4g}", value) if np.isfinite(value) else Cell("not finite"))
        rows.append(cells)
    header = ["meta-step", *(f"loss: {name}" for name in course.validation)]
    return sortable_table("Theta as it is, from fixed seeds. The buttons sort.", header, rows)
