"""Real runs: workers that are devices of one process or of many."""

from comm_lopt.processes import ProcessError, joined, together
from comm_lopt.train.link import Link
from comm_lopt.train.run import TrainSummary, train

__all__ = ["Link", "ProcessError", "TrainSummary", "joined", "together", "train"]
