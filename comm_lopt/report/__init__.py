"""Results to tables, figures and pages."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from comm_lopt.pictures import without_tex
from comm_lopt.report.figures import draw_losses, loss_figure
from comm_lopt.report.tables import markdown_rows, markdown_table

__all__ = ["draw_losses", "loss_figure", "markdown_rows", "markdown_table", "write_report"]


def write_report(folder: pathlib.Path, results: Mapping[str, Any]) -> tuple[str, pathlib.Path]:
    """Writes table.md and loss.png into `folder`; returns the table and the figure's path."""
    table = markdown_table(results)
    (folder / "table.md").write_text(table, encoding="utf-8")
    path = folder / "loss.png"
    # The numbers at the axes are made while it is drawn.
    with without_tex():
        loss_figure(results).savefig(path, dpi=150)
    return table, path
