"""Heat maps: tables of numbers with a colour behind each."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from comm_lopt.report.page import scrolled

__all__ = ["HeatCell", "heat_map"]

# Before a capital or behind an underscore a name may go on in the next line.
_BREAKS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=_)")


class HeatCell(NamedTuple):
    """A cell.

    Attributes:
      text: the number as it is read.
      shown: what a pointer shows.
      ratio: to that at which there is no colour; below it is better. None: no colour.
      mark: "best" is bold, "chosen" has a frame, "none" holds no number.
    """

    text: str
    shown: str
    ratio: float | None = None
    mark: str = ""


def heat_map(
    caption: str,
    corner: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[HeatCell]]],
    strongest: float = 1.5,
) -> str:
    """A table with blue behind the numbers that are better, and orange behind the worse ones.

    Args:
      caption: HTML below it.
      corner: what the rows are.
      columns: their headings.
      rows: the heading and the cells of each.
      strongest: the ratio from which on, and its inverse, the colour is full.
    """
    heads = "".join(
        f'<th scope="col">{_BREAKS.sub("<wbr>", html.escape(name))}</th>' for name in columns
    )
    lines = [
        f'<tr><th scope="row">{html.escape(name)}</th>'
        f"{''.join(_cell(cell, strongest) for cell in cells)}</tr>"
        for name, cells in rows
    ]
    table = (
        f'<table class="heat">\n<thead><tr><th scope="col">{html.escape(corner)}</th>{heads}</tr>'
        f"</thead>\n<tbody>\n{chr(10).join(lines)}\n</tbody>\n</table>"
    )
    label = f"{corner} by {', '.join(columns)}"
    return f"<figure>\n{scrolled(label, table)}\n<figcaption>{caption}</figcaption>\n</figure>"


def _cell(cell: HeatCell, strongest: float) -> str:
    classes, style = [cell.mark] if cell.mark else [], ""
    if cell.ratio is not None and cell.ratio > 0:
        share = min(abs(math.log(cell.ratio)) / math.log(strongest), 1.0)
        classes.append("better" if cell.ratio < 1 else "worse")
        # Less than half the colour leaves the text its contrast.
        style = f' style="--share: {55 * share:.0f}%"'
    named = f' class="{" ".join(classes)}"' if classes else ""
    return f'<td{named}{style} title="{html.escape(cell.shown)}">{html.escape(cell.text)}</td>'
