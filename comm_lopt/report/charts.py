"""Charts of a page, as specifications in Vega-Lite: JSON values with the data inside.

https://vega.github.io/vega-lite/docs/spec.html. Colours are those of a light page, and the page's
style sheet exchanges them where the page is dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from comm_lopt.palette import Look

__all__ = [
    "INK",
    "Spec",
    "bars_chart",
    "curves_chart",
    "drawn_places",
    "line",
    "plain_chart",
    "rounded",
]

Spec = dict[str, Any]

MOST_POINTS = 1000

INK = {"ink": "#1b1f27", "quiet": "#59616e", "faint": "#e4e7ec", "page": "#ffffff"}
"""Colours of what is no method's."""

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
_CONFIG: Spec = {
    "font": _FONT,
    "aria": False,  # The figure has a text in place of all that is in it.
    "background": None,
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK["quiet"], "titleColor": INK["quiet"], "labelFontSize": 12,
        "titleFontSize": 12, "titleFontWeight": "normal", "titlePadding": 8, "labelLimit": 150,
        "gridColor": INK["faint"], "domainColor": INK["quiet"], "tickColor": INK["quiet"],
        "labelFlush": False,
    },
    "axisY": {"domain": False, "ticks": False, "labelPadding": 6, "tickCount": 5},
    "axisX": {"grid": False, "tickCount": 6},
    "text": {"color": INK["ink"], "fontSize": 12},
}  # fmt: skip


def plain_chart(height: int | Spec, **parts: Any) -> Spec:
    """A chart as wide as its place on the page."""
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": _CONFIG,
        **parts,
    }


def curves_chart(methods: Mapping[str, Any], drawn_as: Mapping[str, Look]) -> Spec:
    """Training loss over rounds: a line and a band of one deviation for each method.

    A pointer shows the values of all methods in the round that is nearest.

    Args:
      methods: entries of the results by label, in the order of the values shown.
      drawn_as: the look of each.
    """
    longest = max(len(entry["train_loss"]) for entry in methods.values())
    rows: list[dict[str, Any]] = [{"round": t + 1} for t in drawn_places(longest)]
    for k, entry in enumerate(methods.values()):
        for row in rows:
            if row["round"] <= len(entry["train_loss"]):
                row[f"m{k}"] = rounded(entry["train_loss"][row["round"] - 1])
                row[f"s{k}"] = rounded(entry["train_loss_std"][row["round"] - 1])
    means = [row.get(f"m{k}") for row in rows for k in range(len(methods))]
    y = loss_axis(means, "training loss, mean over the K·H local steps")
    x: Spec = {"field": "round", "type": "quantitative", "title": "communication rounds"}
    x["scale"] = {"domain": [1, longest], "nice": False}
    bands, lines, values = [], [], []
    for k, (label, look) in enumerate((label, drawn_as[label]) for label in methods):
        colour, mark = look.colour.light, {"clip": True, "tooltip": None}
        band = {"y": {**y, "field": f"lo{k}"}, "y2": {"field": f"hi{k}"}}
        bands.append(
            {"mark": {"type": "area", "color": colour, "opacity": 0.13, **mark}, "encoding": band}
        )
        lines.append(
            {
                "mark": line(colour, look.width, look.dashes) | mark,
                "encoding": {"y": {**y, "field": f"m{k}"}},
            }
        )
        values.append({"field": f"told{k}", "type": "nominal", "title": label})
    nearest = {
        "params": [_NEAREST],
        "mark": {"type": "rule", "color": INK["quiet"]},
        "encoding": {
            "opacity": {"condition": {"param": "at", "empty": False, "value": 0.7}, "value": 0},
            "tooltip": [{"field": "round", "type": "quantitative", "title": "round"}, *values],
        },
    }
    return plain_chart(
        340,
        data={"values": rows},
        transform=[part for k in range(len(methods)) for part in _told(k)],
        encoding={"x": x},
        layer=[*bands, *lines, nearest],
    )


_NEAREST: Spec = {
    "name": "at",
    "select": {
        "type": "point", "nearest": True, "encodings": ["x"], "on": "pointerover",
        "clear": "pointerout",
    },
}  # fmt: skip


def _told(k: int) -> list[Spec]:
    mean, deviation = f"datum.m{k}", f"datum.s{k}"
    told = (
        f"format({mean}, '.4g') + ({deviation} === null ? '' : ' ± ' + format({deviation}, '.2g'))"
    )
    return [
        # A band around a mean near zero would reach below it, which a log scale cannot show.
        {"calculate": f"max({mean} - {deviation}, {mean} / 10)", "as": f"lo{k}"},
        {"calculate": f"{mean} + {deviation}", "as": f"hi{k}"},
        {"calculate": f"isValid({mean}) ? {told} : 'not finite'", "as": f"told{k}"},
    ]


def bars_chart(values: Mapping[str, int | None], most: int, drawn_as: Mapping[str, Look]) -> Spec:
    """Rounds to a target: a bar for each method that reached it.

    Args:
      values: rounds by label, None where the target was not reached.
      most: rounds of the run.
      drawn_as: the look of each label.
    """
    rows = [
        {
            "method": label,
            "rounds": number,
            "colour": drawn_as[label].colour.light,
            "told": "not reached" if number is None else str(number),
        }
        for label, number in values.items()
    ]
    y: Spec = {"field": "method", "type": "nominal", "sort": None, "title": None}
    y["axis"] = {"labelColor": INK["ink"]}
    x: Spec = {"field": "rounds", "type": "quantitative", "title": "communication rounds"}
    x["scale"] = {"domain": [0, most]}
    x["axis"] = {"tickCount": 4}
    tooltip = [
        {"field": "method", "type": "nominal", "title": "method"},
        {"field": "told", "type": "nominal", "title": "rounds"},
    ]
    text = {"type": "text", "align": "left", "dx": 5, "clip": False}
    return plain_chart(
        24 * len(rows),
        data={"values": rows},
        encoding={"y": y, "tooltip": tooltip},
        layer=[
            {
                "mark": {"type": "bar", "height": 13, "cornerRadiusEnd": 1},
                "encoding": {
                    "x": x,
                    "color": {"field": "colour", "type": "nominal", "scale": None},
                },
            },
            {
                "transform": [{"filter": "datum.rounds !== null"}],
                "mark": text,
                "encoding": {"x": x, "text": {"field": "told"}},
            },
            {
                "transform": [{"filter": "datum.rounds === null"}],
                "mark": text | {"color": INK["quiet"]},
                "encoding": {"x": {"value": 0}, "text": {"field": "told"}},
            },
        ],
    )


def line(colour: str, width: float, dashes: Sequence[float] = ()) -> Spec:
    """The mark of a line."""
    return {
        "type": "line", "color": colour, "strokeWidth": width, "strokeDash": list(dashes),
        "strokeJoin": "round",
    }  # fmt: skip


def loss_axis(values: Sequence[float | None], title: str) -> Spec:
    """The channel of losses: on a log scale, or a linear one where it cannot be that."""
    axis = {
        "title": title, "titleAnchor": "start", "titleAngle": 0, "titleAlign": "left",
        "titleBaseline": "bottom", "titleX": 0, "titleY": -9, "format": "~g",
    }  # fmt: skip
    scale: Spec = {"zero": False}
    finite = [value for value in values if value is not None]
    if finite and min(finite) > 0:
        # Some room, and more than a point where all are equal.
        low, high = min(finite) / 1.03, max(finite) * 1.03
        scale = {"type": "log", "domain": [rounded(low), rounded(high)], "nice": False}
        axis["values"] = _ticks(low, high)
    return {"type": "quantitative", "scale": scale, "axis": axis}


def _ticks(low: float, high: float) -> list[float]:
    """Numbers of one digit, or of two over less than a factor of two, at most eight of them."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    steps = [(1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7), [n / 10 for n in range(10, 100)]]
    found = [
        [value for e in powers for n in few if low <= (value := float(f"{n}e{e}")) <= high]
        for few in steps
    ]
    found = [ticks for ticks in found if ticks] or [[]]
    fitting = [ticks for ticks in found if len(ticks) <= 8] or [found[0][:: len(found[0]) // 8 + 1]]
    return fitting[-1]


def drawn_places(number: int) -> list[int]:
    """Places in a curve of `number` values that are drawn: all, or evenly many and the last."""
    step = math.ceil(number / MOST_POINTS)
    return sorted({*range(0, number, step), number - 1})


def rounded(value: float | None) -> float | None:
    """Six digits, which no eye can tell from all of them, in half the bytes."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
