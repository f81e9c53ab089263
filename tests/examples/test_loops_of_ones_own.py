"""Every example learns, with one worker and with several."""

import importlib
import pathlib
import sys

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"

if not EXAMPLES.exists():
    pytest.skip("there is no checkout beside an installed package", allow_module_level=True)

LOOPS = ("plain_jax", "haiku_loop", "flax_nnx")


@pytest.fixture
def loop(request, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module(request.param)
    for name in ("data", "rounds", *LOOPS):
        sys.modules.pop(name, None)


def test_every_example_is_tested():
    others = {"data", "rounds"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*LOOPS, *others}


@pytest.mark.parametrize("loop", LOOPS, indirect=True)
@pytest.mark.parametrize("ways", ["one_worker", "workers"])
def test_example_learns(loop, ways, ordinary_promotion):
    losses = getattr(loop, ways)()
    assert losses[0] > 2.0
    assert np.mean(losses[-5:]) < 0.1
