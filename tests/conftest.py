"""What all tests share: strict promotion of types and ranks, and small tasks."""

import gc
import importlib.util
import pathlib
from collections.abc import Iterator

import gin
import jax
import pytest
import quick_compilation
from small_data import write_data_folder

# Before any test imports `learned_optimization`, which needs it to be importable.
import comm_lopt
from comm_lopt.upstream import ResNet

# Its tests need the extra [tfds].
TESTS = pathlib.Path(__file__).parent
TFDS_TESTS = TESTS / "tfds"
HAS_TFDS = all(map(importlib.util.find_spec, ("tensorflow", "tensorflow_datasets")))

# What runs on other versions too: where upstream, JAX, Haiku, Optax and Orbax have changed before.
VERSIONS = (
    "data/feeding/test_as_arguments.py",
    "meta_train/test_meta_train.py",
    "optimizers/test_contract.py",
    "optimizers/test_in_optax.py",
    "pretrained/test_shipped.py",
    "tasks/test_meta_gradients.py",
    "tasks/test_sharded_round.py",
    "test_public_names.py",
    "test_theta.py",
    "upstream/test_estimators.py",
    "upstream/test_jax_view.py",
    "upstream/test_leaves_others_alone.py",
    "upstream/test_noise_reuse.py",
    "upstream/test_optional_modules.py",
    "upstream/test_outer_training.py",
)

# Tracing makes objects by the million; looking for the few to free takes a tenth of the time.
gc.set_threshold(200_000, 20, 100)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config: pytest.Config) -> None:
    """Comes before any process of xdist is started, and in each of them."""
    quick_compilation.set_up(config)


@pytest.fixture(autouse=True)
def _gin_is_left_empty() -> Iterator[None]:
    """What a test binds, or a lock that a trainer leaves behind, is no later test's."""
    yield
    gin.clear_config()


@pytest.fixture
def ordinary_promotion() -> Iterator[None]:
    """JAX's default promotion, without which upstream's code and optax's Adam fail."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def all_optimizations() -> Iterator[None]:
    """Programs are compiled anew, as users' are: for what is measured of them."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_disable_most_optimizations", before)


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


@pytest.fixture
def small_resnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-18 with the first of its blocks alone, of few channels."""
    changed = {
        "blocks_per_group": (1, 0, 0, 0),
        "channels_per_group": (2, 2, 2, 2),
        "use_projection": (True, False, False, False),
    }
    monkeypatch.setitem(ResNet.CONFIGS, 18, {**ResNet.CONFIGS[18], **changed})


def pytest_ignore_collect(collection_path: pathlib.Path) -> bool | None:
    """Leaves out the tests that need TFDS where it is not installed."""
    return True if not HAS_TFDS and TFDS_TESTS in collection_path.parents else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what runs on other versions too."""
    files = {TESTS / file for file in VERSIONS}
    for item in items:
        if item.path in files and not item.get_closest_marker("slow"):
            item.add_marker("versions")


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
