"""The look of each method: the same colour in every figure, table and page.

Colours were searched for by distance in OKLab, as seen with ordinary vision and with each of three
kinds of colour blindness (Machado, Oliveira and Fernandes 2009), under a contrast of 3 to the page,
light or dark (WCAG 2.2, 1.4.11); a test measures both. Lines tell methods apart as well: learned
rules are drawn through, rules after local steps dashed, data-parallel ones dotted.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from comm_lopt.optimizers.registry import OPTIMIZERS

__all__ = ["COLOURS", "Colour", "Look", "looks"]


@dataclasses.dataclass(frozen=True)
class Colour:
    """One hue, as it is drawn on a light and on a dark page."""

    light: str
    dark: str


COLOURS = (
    Colour("#64400d", "#a27d35"),
    Colour("#7f35c2", "#9a75fc"),
    Colour("#4ea332", "#bff37c"),
    Colour("#bc4014", "#fc9624"),
    Colour("#4b7cd1", "#7fa3da"),
    Colour("#27695b", "#21d189"),
    Colour("#8790b5", "#9fc5db"),
    Colour("#30207d", "#6c5bcb"),
    Colour("#e05f86", "#fedee8"),
)
"""Those of the registry's optimizers in its order, over and over, where none is chosen."""

_DASHED: tuple[float, ...] = (5.0, 2.5)
_DOTTED: tuple[float, ...] = (1.5, 2.0)
# Of further labels of one optimizer.
_FURTHER = ((8.0, 2.0, 1.5, 2.0), (3.0, 1.5), (10.0, 3.0), (5.0, 2.0, 1.5, 2.0, 1.5, 2.0))


@dataclasses.dataclass(frozen=True)
class Look:
    """How a method is drawn.

    Attributes:
      colour: of its lines and bars.
      dashes: lengths of lines and gaps in turn, in points; none for a line drawn through.
      width: of its lines.
    """

    colour: Colour
    dashes: tuple[float, ...]
    width: float

    @property
    def linestyle(self) -> Any:
        """The dashes for Matplotlib, which counts them in widths of the line."""
        return (0, tuple(length / self.width for length in self.dashes)) if self.dashes else "-"


def looks(methods: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, Look]:
    """The look of each label.

    A label that is its optimizer's name, or else the first of that optimizer, has the optimizer's
    look; further ones have its colour and other dashes.

    Args:
      methods: pairs of a label and what results hold of it; the first of a label counts.
    """
    entries: dict[str, Mapping[str, Any]] = {}
    for label, entry in methods:
        entries.setdefault(label, entry)
    found, seen = {}, {label: 1 for label, entry in entries.items() if label == entry["optimizer"]}
    for label, entry in entries.items():
        optimizer, learned = str(entry["optimizer"]), entry["learned"]
        number = 0
        if label != optimizer:
            number = seen.get(optimizer, 0)
            seen[optimizer] = number + 1
        dashes = _DOTTED if entry.get("sends") == "gradient" else _DASHED
        dashes = _FURTHER[(number - 1) % len(_FURTHER)] if number else () if learned else dashes
        found[label] = Look(_colour(optimizer), dashes, 2.2 if learned else 1.4)
    return found


def _colour(optimizer: str) -> Colour:
    entry = OPTIMIZERS.get(optimizer)
    if entry is not None and entry.colour is not None:
        return COLOURS[entry.colour]
    places = [name for name, entry in OPTIMIZERS.items() if entry.colour is None]
    # One's own has a colour as well, the same in every process.
    place = places.index(optimizer) if entry is not None else zlib.crc32(optimizer.encode())
    return COLOURS[place % len(COLOURS)]
