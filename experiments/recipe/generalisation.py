"""What this experiment takes from experiments/generalisation: how baselines are tuned and kept."""

from __future__ import annotations

import pathlib
import sys

__all__ = ["BASELINES", "TUNING_SEEDS", "kept", "made_once", "tune", "write_results"]

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "generalisation"))

from grids import BASELINES  # noqa: E402
from kept import kept, made_once  # noqa: E402
from records import write_results  # noqa: E402
from tuning import TUNING_SEEDS, tune  # noqa: E402
