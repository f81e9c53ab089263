"""What all tests share: strict promotion of types and ranks, and small tasks."""

import importlib.util
import pathlib
from collections.abc import Iterator

import jax
import pytest
from small_data import write_data_folder

# Before any test imports `learned_optimization`, which needs it to be importable.
import comm_lopt

# Its tests need the extra [tfds].
TFDS_TESTS = pathlib.Path(__file__).parent / "tfds"
HAS_TFDS = all(map(importlib.util.find_spec, ("tensorflow", "tensorflow_datasets")))

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
def small_data_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder for COMM_LOPT_DATA with every data set in it, small and made up. Read only."""
    folder = tmp_path_factory.mktemp("every_data_set")
    write_data_folder(folder)
    return folder


def pytest_ignore_collect(collection_path: pathlib.Path) -> bool | None:
    """Leaves out the tests that need TFDS where it is not installed."""
    return True if not HAS_TFDS and TFDS_TESTS in collection_path.parents else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says loudly which data and which libraries the tests had to do without."""
    reasons = {
        report.longrepr[2]
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple) and "Fashion-MNIST" in report.longrepr[2]
    }
    for reason in reasons:
        terminalreporter.section("NOT TESTED ON REAL DATA", sep="!", red=True)
        terminalreporter.line(reason)
    if not HAS_TFDS and _asked_for(TFDS_TESTS, terminalreporter.config):
        terminalreporter.section("NOT TESTED WITH TENSORFLOW DATASETS", sep="!", red=True)
        terminalreporter.line(
            'tests/tfds is left out here; it needs pip install "comm-lopt[tfds]", and '
            "`make test-tfds` runs it in an environment of its own."
        )


def _asked_for(folder: pathlib.Path, config: pytest.Config) -> bool:
    """Whether what pytest was told to run has the tests in `folder` in it."""
    start = config.invocation_params.dir
    asked = [(start / argument.partition("::")[0]).resolve() for argument in config.args]
    return any(path == folder or path in folder.parents or folder in path.parents for path in asked)
