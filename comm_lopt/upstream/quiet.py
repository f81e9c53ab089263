"""Leaves out messages that every run would print and that tell nothing, and no others.

What others log and warn of is left as it is: each filter is for messages that are there because of
comm_lopt or upstream, and knows them by more than their text.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

__all__ = ["without_import_messages", "without_int64_warnings"]


@contextlib.contextmanager
def without_import_messages() -> Iterator[None]:
    """Leaves out what upstream and Flax say as upstream imports them.

    TensorFlow is optional, and no oryx works with today's JAX, so all runs go without. Absl calls
    `logging.basicConfig` to say so, after which a user's own call would do nothing; that is undone.
    """

    # One for each import, so that one inside another can take its own away.
    def is_worth_saying(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(("Oryx not found!", "Tensorflow library not found"))

    root, logger = logging.getLogger(), logging.getLogger("absl")
    handlers = list(root.handlers)
    logger.addFilter(is_worth_saying)
    try:
        yield
    finally:
        logger.removeFilter(is_worth_saying)
        if not handlers:
            for handler in list(root.handlers):
                root.removeHandler(handler)


def without_int64_warnings() -> None:
    """Leaves out JAX's warning that 0.0.1's lengths of unrolls are int32 and not int64."""
    warnings.filterwarnings(
        "ignore", "Explicitly requested dtype int64", UserWarning, r"learned_optimization\."
    )
