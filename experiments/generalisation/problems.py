"""The test tasks: ten of them, some in several variants, each a gin file of tasks/."""

from __future__ import annotations

import dataclasses
import pathlib

import comm_lopt
from comm_lopt.meta_test import Problem, meta_test_problem

__all__ = ["PROBLEMS", "TestProblem"]

_FOLDER = pathlib.Path(__file__).resolve().parent / "tasks"


@dataclasses.dataclass(frozen=True)
class TestProblem:
    """A variant of a test task.

    Attributes:
      name: of its gin file, and of its folder of results.
      task: number of the task, 1 to 10.
      title: for the table.
      num_seeds: test seeds: 10 where a run of every method takes under a minute, else 3.
      tuning_rounds: rounds for which points are tried; T if None. Finalists run for T.
      lean: methods that are tuned with fewer long runs; see `Plan.lean`.
      leanest: those of them whose best point does not run with further seeds: a run takes minutes.
    """

    __test__ = False  # No test case of pytest's.

    name: str
    task: int
    title: str
    num_seeds: int = 10
    tuning_rounds: int | None = None
    lean: tuple[str, ...] = ()
    leanest: tuple[str, ...] = ()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of the comparison, none of which tuning sees."""
        return tuple(range(100, 100 + self.num_seeds))

    def load(self) -> Problem:
        """Has gin describe the problem, in place of what it described."""
        comm_lopt.load_config([str(_FOLDER / f"{self.name}.gin")])
        return meta_test_problem()


_MUON = ("MuLoCo", "MuLoCoLinear")
_ALL = ("LocalSGD", "SlowMo", "DiLoCo", "FedAdam", *_MUON, "DataParallelSGD", "DataParallelAdam")

PROBLEMS: dict[str, TestProblem] = {
    problem.name: problem
    for problem in (
        TestProblem("mlp", 1, "FMNIST, MLP 128-128, T 100"),
        TestProblem("mlp_t1000", 1, "FMNIST, MLP 128-128, T 1000", 3, 250, _ALL),
        TestProblem("mlp_large", 2, "FMNIST, MLP 512-512-512, T 50", 3, 25, _ALL, _MUON),
        TestProblem("conv", 3, "FMNIST, convnet, T 200", 3, 50, _ALL),
        TestProblem("vit", 4, "FMNIST, ViT, T 100", 3, None, _ALL),
        TestProblem("digits", 5, "digits, MLP 32, T 100"),
        TestProblem("transformer", 6, "Python's topics, transformer, T 200", 3, 100, _ALL),
        TestProblem(
            "transformer_large", 7, "transformer twice as wide and deep, T 200", 3, 50, _ALL
        ),
        TestProblem("mlp_h1", 8, "task 1 at H 1", lean=_MUON),
        TestProblem("mlp_h16", 8, "task 1 at H 16", 3, None, _ALL, _MUON),
        TestProblem("mlp_h64", 8, "task 1 at H 64, T 50", 3, 25, _ALL, _MUON),
        TestProblem("mlp_k2", 9, "task 1 at K 2", lean=_MUON),
        TestProblem("mlp_k32", 9, "task 1 at K 32", 3, None, _ALL, _MUON),
        TestProblem("mlp_dirichlet", 10, "task 1, parts by Dirichlet 0.1", lean=_MUON),
        TestProblem("mlp_half_absent", 10, "task 1, half of the workers absent", lean=_MUON),
    )
}
