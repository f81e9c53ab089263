"""Where data is kept, and the two errors of data that is not there or not whole."""

from __future__ import annotations

import os
import pathlib

__all__ = ["DATA_VARIABLE", "DataError", "data_folder", "user_path"]

DATA_VARIABLE = "COMM_LOPT_DATA"
"""Environment variable that names the folder of all data."""


class DataError(ValueError):
    """A data file that is not what it should be."""


def data_folder() -> pathlib.Path:
    """Returns `$COMM_LOPT_DATA`, or `comm_lopt` in the user's folder for data."""
    chosen = os.environ.get(DATA_VARIABLE)
    if chosen:
        return user_path(chosen)
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return user_path(base) / "comm_lopt"


def user_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """A path as a person writes it in a configuration: `~` is the home folder."""
    return pathlib.Path(os.path.expanduser(path))
