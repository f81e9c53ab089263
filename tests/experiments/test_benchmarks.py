"""A small version of the benchmark of the learned update, so that a slow-down is seen."""

import importlib
import pathlib

import pytest

import comm_lopt
from comm_lopt.meta_test.problem import Problem
from comm_lopt.meta_test.runs import run
from comm_lopt.methods import hand_designed

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "benchmarks"

if not BENCHMARKS.exists():
    pytest.skip("there are no benchmarks beside an installed package", allow_module_level=True)


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a benchmark by name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def learned_update(benchmark):
    return benchmark("learned_update")


def test_learned_update_is_faster_than_upstreams_in_less_memory(
    learned_update, all_optimizations, ordinary_promotion
):
    names = ("LOptA", "LAggA")
    figures = learned_update.compare({"w": (784, 128)}, num_thetas=2, repetitions=3, names=names)
    for name in names:
        # On quiet machines three times as fast, in a tenth of the memory.
        assert figures[name]["times_faster_than_upstream"] > 1.3
        assert figures[name]["upstreams_temporaries_over_these"] > 5


def test_resnet50_of_the_benchmark_has_its_size(learned_update):
    assert learned_update.count(learned_update.resnet50()) == 25_557_032


def test_documented_table_is_that_of_the_committed_figures(benchmark):
    documented = (BENCHMARKS.parents[1] / "docs" / "performance.md").read_text(encoding="utf-8")
    assert benchmark("table").table(BENCHMARKS / "results") in documented


def test_small_sweep_compiles_each_function_once(benchmark, ordinary_promotion):
    sweep = benchmark("sweep")
    problem = Problem(comm_lopt.digits_mlp(), num_workers=2, num_local_steps=1, num_rounds=2)
    points = [{"local_learning_rate": rate} for rate in (0.1, 0.2)]
    measured = sweep.Measured()
    for _ in range(2):  # The first time JAX compiles its own small functions as well.
        measured.add(lambda: [run(problem, hand_designed("LocalSGD"), (1, 2, 3), points)])
    assert measured.programs == 3  # The start, the rounds, the evaluation.
