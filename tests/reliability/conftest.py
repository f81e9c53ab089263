"""What the tests of reliability share: figures for docs/reliability.md, and gin left clean."""

import gin
import pytest

FIGURES = pytest.StashKey[list]()


@pytest.fixture(autouse=True)
def _as_users_have_it(ordinary_promotion):
    yield
    gin.clear_config()


@pytest.fixture
def record_figure(request):
    """Notes a measured figure; all are printed at the end."""
    figures = request.config.stash.setdefault(FIGURES, [])
    return lambda name, value: figures.append((name, value))


def pytest_terminal_summary(terminalreporter, config):
    """Prints what was measured."""
    figures = config.stash.get(FIGURES, [])
    if figures:
        terminalreporter.section("measured")
        for name, value in figures:
            terminalreporter.line(f"{name}: {value}")
