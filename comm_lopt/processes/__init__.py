"""Several processes that are one run."""

from comm_lopt.processes.board import Board, shared_board
from comm_lopt.processes.gathering import (
    exchanging,
    from_first,
    gathered,
    gathered_in_first,
    gathered_json,
    require_agreement,
    require_same_weights,
    wait_for_all,
)
from comm_lopt.processes.joining import joined, together
from comm_lopt.processes.meeting import ProcessError, meet

__all__ = [
    "Board",
    "ProcessError",
    "exchanging",
    "from_first",
    "gathered",
    "gathered_in_first",
    "gathered_json",
    "joined",
    "meet",
    "require_agreement",
    "require_same_weights",
    "shared_board",
    "together",
    "wait_for_all",
]
