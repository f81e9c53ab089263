"""Empty figures of Matplotlib, which is imported with the first: it takes a second to import."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["empty_figure", "without_tex"]


@contextlib.contextmanager
def without_tex() -> Iterator[None]:
    """TeX would have names escaped in other ways, and need not be there."""
    import matplotlib

    with matplotlib.rc_context({"text.usetex": False, "text.parse_math": True}):
        yield


def empty_figure(
    width: float, height: float, layout: Literal["constrained"] | None = None
) -> Figure:
    """A figure of that size in inches, which can be saved and needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure
