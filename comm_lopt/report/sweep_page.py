"""The page of a sweep: heat maps of two hyperparameters, or a line of one, and all points."""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from comm_lopt.palette import Look, looks
from comm_lopt.report.charts import INK, Spec, line, loss_axis, plain_chart, rounded
from comm_lopt.report.heat import HeatCell, heat_map
from comm_lopt.report.page import chart, document, sortable_table
from comm_lopt.report.results_page import facts, foot
from comm_lopt.report.tables import Cell

__all__ = ["sweep_page"]

Point = Mapping[str, Any]


def sweep_page(sweep: Mapping[str, Any]) -> str:
    """One HTML page of a sweep.

    Args:
      sweep: in the format of sweep.json; see docs/formats.md.

    Raises:
      ImportError: the extra that pages need is not installed.
    """
    points, label = sweep["points"], sweep["label"]
    look = looks([(label, sweep["method"])])[label]
    names = list(dict.fromkeys(name for point in points for name in point["hparams"]))
    axes = [name for name in names if len(_values(points, name)) > 1]
    best = (
        ", ".join(f"{name} = {value:g}" for name, value in sweep["best"].items()) or "the only one"
    )
    lead = [facts(sweep), f"<p>Best of {len(points)} points: <b>{html.escape(best)}</b>.</p>"]
    if sweep["on_edge"]:
        edges = ", ".join(f"{name} = {value:g}" for name, value in sweep["on_edge"].items())
        lead.append(
            f"<p><b>On the edge of the grid: {html.escape(edges)}.</b> A better point may lie "
            "beyond it.</p>"
        )
    body = []
    if len(axes) == 1:
        body.append("<h3>Final training loss</h3>")
        body.append(_line(sweep, axes[0], look))
    elif axes:
        body.append("<h3>Final training loss, two hyperparameters at a time</h3>")
        body += [_heat(sweep, pair) for pair in itertools.combinations(axes, 2)]
    body += ["<h3>All points</h3>", _table(sweep, names)]
    return document(
        f"{label} tuned on {sweep['problem']['task']}", "\n".join(lead), body, foot([sweep])
    )


def _values(points: Sequence[Point], name: str) -> list[float]:
    return sorted({point["hparams"][name] for point in points if name in point["hparams"]})


def _marked(sweep: Mapping[str, Any], name: str, value: float) -> str:
    on_edge = sweep["on_edge"].get(name) == value
    return f"{value:g} (best, at the edge)" if on_edge else f"{value:g}"


def _heat(sweep: Mapping[str, Any], pair: tuple[str, str]) -> str:
    """The lowest loss over all other hyperparameters, at each pair of values."""
    down, across = pair
    points = [point for point in sweep["points"] if {*pair} <= {*point["hparams"]}]
    losses = [p["final_train_loss"] for p in points if p["final_train_loss"] is not None]
    lowest = min(losses, default=None)
    rows = []
    for value in _values(points, down):
        cells = []
        for other in _values(points, across):
            here = [
                p for p in points if (p["hparams"][down], p["hparams"][across]) == (value, other)
            ]
            found = [p["final_train_loss"] for p in here if p["final_train_loss"] is not None]
            where = f"{down} {value:g}, {across} {other:g}"
            if not found:
                cells.append(
                    HeatCell("diverged" if here else "", f"{where}: diverged", mark="none")
                )
                continue
            loss, chosen = min(found), (sweep["best"].get(down), sweep["best"].get(across))
            cells.append(
                HeatCell(
                    f"{loss:.3g}",
                    f"{where}: {loss:.6g}",
                    loss / lowest if lowest and lowest > 0 else None,
                    "chosen" if chosen == (value, other) else "",
                )
            )
        rows.append((_marked(sweep, down, value), cells))
    columns = [_marked(sweep, across, value) for value in _values(points, across)]
    others = [n for n in sweep["best"] if n not in pair and len(_values(points, n)) > 1]
    least = f" Each is the lowest over {html.escape(', '.join(others))}." if others else ""
    caption = (
        f"Down: {html.escape(down)}; across: {html.escape(across)}. The frame is the best point; "
        f"the deeper the orange, the higher the loss, up to three times the lowest.{least}"
    )
    return heat_map(caption, f"{down} \\ {across}", columns, rows, strongest=3.0)


def _line(sweep: Mapping[str, Any], name: str, look: Look) -> str:
    points = sorted(sweep["points"], key=lambda point: point["hparams"][name])
    rows: list[dict[str, Any]] = [
        {
            "x": point["hparams"][name],
            "loss": rounded(point["final_train_loss"]),
            "told": _told(point),
            "best": point["hparams"] == sweep["best"],
        }
        for point in points
    ]
    values = [row["x"] for row in rows]
    log = min(values) > 0 and max(values) >= 10 * min(values)
    x: Spec = {"field": "x", "type": "quantitative", "title": name, "axis": {"format": "~g"}}
    x["scale"] = {"type": "log", "nice": False} if log else {"zero": False}
    if log:
        x["axis"] = {"format": "~g", "values": values}
    y = loss_axis([row["loss"] for row in rows], "final training loss, mean over seeds")
    tooltip = [
        {"field": "x", "type": "quantitative", "title": name},
        {"field": "told", "type": "nominal", "title": "final training loss"},
    ]
    colour = look.colour.light
    dot = {"type": "point", "filled": True, "size": 70, "color": colour, "opacity": 1}
    ring = {"type": "point", "filled": False, "size": 260, "strokeWidth": 2, "color": INK["ink"]}
    cross = {"type": "text", "text": "×", "fontSize": 18, "color": INK["quiet"]}
    spec = plain_chart(
        300,
        data={"values": rows},
        encoding={"x": x, "tooltip": tooltip},
        layer=[
            {"mark": line(colour, 1.6), "encoding": {"y": {**y, "field": "loss"}}},
            {"mark": dot, "encoding": {"y": {**y, "field": "loss"}}},
            {
                "transform": [{"filter": "datum.best"}],
                "mark": ring,
                "encoding": {"y": {**y, "field": "loss"}},
            },
            {
                "transform": [{"filter": "datum.loss === null"}],
                "mark": cross,
                "encoding": {"y": {"value": 8}},
            },
        ],
    )
    alt = "; ".join(f"{name} {row['x']:g}: {row['told']}" for row in rows)
    return chart(spec, alt, "The ring is the best point; × at the top: a seed diverged.")


def _told(point: Point) -> str:
    loss = point["final_train_loss"]
    return "diverged" if loss is None else f"{loss:.4g}"


def _table(sweep: Mapping[str, Any], names: Sequence[str]) -> str:
    def place(point: Point) -> float:
        loss = point["final_train_loss"]
        return float("inf") if loss is None else loss

    rows = []
    for number, point in enumerate(sorted(sweep["points"], key=place), start=1):
        cells = [Cell(str(number), number)]
        for name in names:
            value = point["hparams"].get(name)
            cells.append(Cell("", None) if value is None else Cell(f"{value:g}", value))
        cells.append(Cell(_told(point), point["final_train_loss"]))
        rows.append([*cells, Cell(str(len(point["diverged_seeds"])), len(point["diverged_seeds"]))])
    header = ["rank", *names, "final training loss", "seeds that diverged"]
    caption = f"Means of {len(sweep['seeds'])} seeds, the best first. The buttons sort."
    return sortable_table(caption, header, rows)
