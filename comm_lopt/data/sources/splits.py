"""How sequences of examples are divided, in percent of their length."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["LAST_FIFTH_HELD_OUT", "LAST_FIFTH_HELD_OUT_WITH_TEST", "Percents", "percent_splits"]

Percents = Mapping[str, tuple[int, int]]

LAST_FIFTH_HELD_OUT: Percents = {
    "train": (0, 80),
    "inner_valid": (80, 90),
    "outer_valid": (90, 100),
}
LAST_FIFTH_HELD_OUT_WITH_TEST: Percents = {
    "train": (0, 80),
    "inner_valid": (80, 85),
    "outer_valid": (85, 90),
    "test": (90, 100),
}


def percent_splits(length: int, percents: Percents) -> dict[str, slice]:
    """Stretches of a sequence in percent of its length, rounded as TFDS does ("closest")."""
    return {
        name: slice(round(length * start / 100), round(length * stop / 100))
        for name, (start, stop) in percents.items()
    }
