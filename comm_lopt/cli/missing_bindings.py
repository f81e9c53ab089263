"""Arguments that gin has no value for, told with the fix."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from comm_lopt.config import ConfigError

__all__ = ["missing_bindings_told"]

_REQUIRED = re.compile(r"Required bindings for `([\w.]+)` not provided in config: \[(.*?)\]")


@contextlib.contextmanager
def missing_bindings_told() -> Iterator[None]:
    """Raises `ConfigError` where gin says, by a RuntimeError, that an argument has no value.

    Raises:
      ConfigError: an argument that must have a value has none.
    """
    try:
        yield
    except RuntimeError as error:
        missing = _REQUIRED.search(str(error))
        if missing is None:
            raise
        names = [f"{missing[1]}.{name}" for name in re.findall(r"\w+", missing[2])]
        raise ConfigError(
            f"{', '.join(names)}: no value; add the --config_file that gives it, such as "
            f"meta_training.gin or that of a task, or --gin_bindings '{names[0]} = ...'."
        ) from error
