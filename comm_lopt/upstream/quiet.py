"""Leaves out of the log messages that every run would print and that tell nothing."""

from __future__ import annotations

import logging
import warnings

__all__ = ["leave_out_expected_messages"]


def _is_worth_saying(record: logging.LogRecord) -> bool:
    message = str(record.msg)
    if record.module == "resource_reader":
        # Gin says so for each folder of its search path but the last. A file that is in none of
        # them makes gin raise an error that lists the folders.
        return message != "Path not found: %s"
    # Upstream and Flax say so as they are imported. TensorFlow is optional, and no oryx works
    # with today's JAX, so all runs go without.
    return not message.startswith(("Oryx not found!", "Tensorflow library not found"))


def leave_out_expected_messages() -> None:
    """Filters the loggers of gin and upstream; a second call does nothing."""
    for name in (None, "absl"):
        logging.getLogger(name).addFilter(_is_worth_saying)
    # 0.0.1 asks for int64 lengths of unrolls; JAX gives int32, which is what it works with.
    warnings.filterwarnings(
        "ignore", "Explicitly requested dtype int64", UserWarning, r"learned_optimization\."
    )
