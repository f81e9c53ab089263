"""What these experiments take from experiments/generalisation: tuned baselines, and records."""

from __future__ import annotations

import pathlib
import sys

__all__ = ["BASELINES", "collected", "compared", "figure", "made_once", "table", "write_results"]

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "generalisation"))

from comparison import collected, compared  # noqa: E402
from grids import BASELINES  # noqa: E402
from kept import made_once  # noqa: E402
from records import write_results  # noqa: E402
from table import figure, table  # noqa: E402
