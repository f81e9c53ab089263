"""What a run says when it has ended: where everything is, and what to do next."""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Sequence

import gin

from comm_lopt.meta_train.figure import FIGURE_FILE
from comm_lopt.meta_train.log import METRICS_FILE, VALIDATION_FILE
from comm_lopt.theta import FILE_NAME

__all__ = ["closing"]


def closing(folder: pathlib.Path, config_flags: Sequence[str]) -> list[str]:
    """Returns a few lines about a run that has ended.

    Args:
      folder: the run's.
      config_flags: of the command line that described it.
    """
    theta, best = folder / "theta", folder / "best_theta"
    has_best = (best / FILE_NAME).exists()
    lines = [f"theta is in {theta}"]
    if has_best:
        lines.append(f"the best theta is in {best}")
    logs = [folder / name for name in (METRICS_FILE, VALIDATION_FILE, FIGURE_FILE)]
    there = " ".join(str(path) for path in logs if path.exists())
    lines.append(f"its course: {there}, or tensorboard --logdir {shlex.quote(str(folder))}")
    if _describes_a_problem():
        chosen = best if has_best else theta
        command = ["comm-lopt", "meta-test", *config_flags, "--theta", str(chosen)]
        command += ["--optimizer", "LocalSGD", "--out_dir", f"{folder}_compared"]
        lines.append(f"compare it: {shlex.join(command)}")
    return lines


def _describes_a_problem() -> bool:
    """Whether gin says what to meta-test on, as it does where local_sgd.gin is included."""
    try:
        gin.query_parameter("meta_test_problem.task_family")
    except ValueError:
        return False
    return True
