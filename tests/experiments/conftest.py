"""The scripts of experiments/ are no package, and some of their modules have the same names."""

import importlib
import sys

import pytest
from small_experiment import EXPERIMENTS


@pytest.fixture
def modules_of(monkeypatch):
    """Takes folders of experiments, of which the first comes first; gives what imports by name."""
    before = list(sys.path)

    def make(*folders):
        names = {path.stem for folder in folders for path in (EXPERIMENTS / folder).glob("*.py")}
        for name in names:
            # What was imported is put back, and what the test imports is taken out.
            monkeypatch.setitem(sys.modules, name, None)
            del sys.modules[name]
        monkeypatch.syspath_prepend(EXPERIMENTS / folders[0])
        return importlib.import_module

    yield make
    sys.path[:] = before
