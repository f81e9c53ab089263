"""Files from elsewhere: a reader gives what is in them, or its one class of error."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

__all__ = ["damage_as"]


@contextlib.contextmanager
def damage_as(kind: type[ValueError], found: str, fix: str) -> Iterator[None]:
    """Raises `kind` for whatever a damaged or hostile file makes the libraries raise that read it.

    What that is is an open list. What is the machine's and not the file's passes as it is: no
    memory, and the errors of a disk or of rights.

    Args:
      kind: the reader's class of error; one that is raised inside passes as it is.
      found: what is said, which begins with the file's name.
      fix: what to do.
    """
    try:
        yield
    except (kind, MemoryError):
        raise
    except Exception as error:
        # Seeking to a place that a damaged file names is the one call that the system refuses.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        told = f"{type(error).__name__}: {error}"
        raise kind(f"{found} ({told:.300}); {fix}") from error
