"""What all tests share: strict promotion of types and ranks, and small tasks."""

import pathlib
from collections.abc import Iterator

import jax
import pytest
from small_tasks import write_fashion_mnist

# Before any test imports `learned_optimization`, which needs it to be importable.
import comm_lopt

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def ordinary_promotion() -> Iterator[None]:
    """JAX's default promotion, without which upstream's code and optax's Adam fail."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="session")
def real_fashion_mnist() -> pathlib.Path:
    """Folder of the real Fashion-MNIST; without it the test is left out, and said to be."""
    try:
        return comm_lopt.find_fashion_mnist()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def small_fashion_mnist(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A data folder for COMM_LOPT_DATA with a made-up Fashion-MNIST of 2,000 images."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "fashion_mnist").mkdir()
    write_fashion_mnist(folder / "fashion_mnist", num_train=1500, num_test=500)
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says loudly which data the tests had to do without."""
    reasons = {
        report.longrepr[2]
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and "Fashion-MNIST" in report.longrepr[2]
    }
    for reason in reasons:
        terminalreporter.section("NOT TESTED ON REAL DATA", sep="!", red=True)
        terminalreporter.line(reason)
