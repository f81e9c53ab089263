"""Workers who are late: how long a round waits for them, once others have done their steps."""

from __future__ import annotations

import time
from collections.abc import Callable

from comm_lopt.checks import require_range
from comm_lopt.processes import Board

__all__ = ["Patience"]


class Patience:
    """Says in a process when a round has waited for it long enough.

    All processes begin a round together, at the end of the last merge. The first to have done its
    local steps posts how long they took it, t seconds. Another is late `max_wait_s` after that:
    once the round has taken it more than t + max_wait_s by its own clock, so that clocks need not
    agree.

    Args:
      max_wait_s: seconds from 0 on.
      board: of all processes of the run.
      clock: seconds.

    Raises:
      ValueError: a time below 0.
    """

    def __init__(
        self, max_wait_s: float, board: Board, clock: Callable[[], float] = time.monotonic
    ):
        self.max_wait_s = require_range("max_wait_s", max_wait_s, 0.0)
        self._board, self._clock = board, clock
        self._name, self._begin = "", 0.0
        self._limit: float | None = None

    def begin(self, number: int) -> None:
        """The round of this number, from 0 on, begins."""
        # Nobody asks for the last round but one any more: all have begun the last.
        self._board.remove(_name(number - 2))
        self._name, self._limit = _name(number), None
        self._begin = self._clock()

    def is_late(self) -> bool:
        """Whether the round should go on without this process, which has steps left to do."""
        if self._limit is None:
            first = self._board.read(self._name)
            if first is None:
                return False
            self._limit = float(first) + self.max_wait_s
        return self._clock() - self._begin > self._limit

    def done(self) -> None:
        """The steps of this process are done."""
        if self._board.read(self._name) is None:
            self._board.post(self._name, repr(self._clock() - self._begin))


def _name(number: int) -> str:
    return f"comm_lopt/first_done/{number}"
