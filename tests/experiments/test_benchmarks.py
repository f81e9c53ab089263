"""A small version of the benchmark of the learned update, so that a slow-down is seen."""

import importlib
import pathlib

import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "benchmarks"

if not BENCHMARKS.exists():
    pytest.skip("there are no benchmarks beside an installed package", allow_module_level=True)


@pytest.fixture
def learned_update(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("learned_update")


def test_learned_update_is_faster_than_upstreams_in_less_memory(learned_update, ordinary_promotion):
    shapes = {"w0": (256, 128), "w1": (128, 64)}
    figures = learned_update.compare(shapes, num_thetas=4, repetitions=5)
    for name in ("LOptA", "LAggA"):
        # On quiet machines three times as fast, in a tenth of the memory.
        assert figures[name]["times_faster_than_upstream"] > 1.3
        assert figures[name]["upstreams_temporaries_over_these"] > 5


def test_resnet50_of_the_benchmark_has_its_size(learned_update):
    assert learned_update.count(learned_update.resnet50()) == 25_557_032
