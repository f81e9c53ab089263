"""Methods on tasks: curves, sweeps and their results."""

from comm_lopt.meta_test.check_results import ResultsError, check_sweep, read_json
from comm_lopt.meta_test.configured import meta_test_problem
from comm_lopt.meta_test.problem import Problem
from comm_lopt.meta_test.results import make_results, read_results, rounds_to, write_results
from comm_lopt.meta_test.runs import Curves, run
from comm_lopt.meta_test.sweeps import SweepResult, grid_points, sweep
from comm_lopt.methods import Method, hand_designed, learned

__all__ = [
    "Curves",
    "Method",
    "Problem",
    "ResultsError",
    "SweepResult",
    "check_sweep",
    "grid_points",
    "hand_designed",
    "learned",
    "make_results",
    "meta_test_problem",
    "read_json",
    "read_results",
    "rounds_to",
    "run",
    "sweep",
    "write_results",
]
