"""Tests that importing comm_lopt changes nothing for others in the process."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import comm_lopt

# Modules of upstream that can be imported without comm_lopt are, so that it comes too late.
PROBE = """
import contextlib, json, logging, os, sys, warnings
import gin, jax, jax.core, jax.lib, jax.tree_util
import sklearn.datasets  # Which filters warnings, and comm_lopt imports it.
with contextlib.suppress(ImportError):
    import requests  # So does this one, for TensorFlow Datasets.
sys.path[:0] = filter(None, [os.environ.get("COMM_LOPT_UPSTREAM")])
import learned_optimization.tree_utils as imported_before

MODULES = jax, jax.core, jax.lib, jax.tree_util
own_errors = []

def names():
    # A submodule becomes a name of its package when anyone imports it.
    return [sorted(n for n in dir(m) if f"{m.__name__}.{n}" not in sys.modules) for m in MODULES]

@gin.configurable
def consumer(value=None):
    return value

def unlocked_after_finalize():
    gin.clear_config()
    gin.parse_config("m = 1\\nconsumer.value = %m")
    gin.finalize()
    with gin.unlock_config():
        gin.parse_config("m = 16")
    result = [consumer(), gin.config_str()]
    gin.clear_config()
    return result

def errors_of_a_missing_include():
    own_errors.clear()
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: own_errors.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    try:
        gin.parse_config("include 'of/someone/else.gin'")
    except OSError:
        pass
    logging.getLogger().removeHandler(handler)
    return list(own_errors)

def probe():
    return {
        # Before gin, which gives the root logger one with the first error that it logs.
        "root handlers": len(logging.getLogger().handlers),
        "names of jax": names(),
        "gin unlocked": unlocked_after_finalize(),
        "errors of gin": errors_of_a_missing_include(),
        "absl filters": len(logging.getLogger("absl").filters),
        "filters of warnings": [
            str(f) for f in warnings.filters if "learned_optimization" not in str(f[3])
        ],
    }

before = probe()
logging.getLogger().handlers.clear()
import comm_lopt
after = probe()
print(json.dumps([before, after, [
    imported_before.jax.tree_map is jax.tree_util.tree_map,
    sys.modules["haiku._src.base"].jax is jax,
]]))
"""


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """What a process looks like before and after it has imported comm_lopt."""
    root = pathlib.Path(comm_lopt.__file__).parents[1]
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return (*json.loads(result.stdout), result.stderr)


@pytest.mark.parametrize(
    "what",
    [
        "names of jax",
        "gin unlocked",
        "errors of gin",
        "root handlers",
        "absl filters",
        "filters of warnings",
    ],
)
def test_import_leaves_it_as_it_was(probed, what):
    before, after, *_ = probed
    assert after[what] == before[what]


def test_macro_bound_after_finalize_counts(probed):
    _, after, *_ = probed
    assert after["gin unlocked"][0] == 16


def test_upstream_sees_the_removed_names_though_it_was_imported_before_and_haiku_does_not(probed):
    _, _, (upstream_sees_them, haiku_has_jax_itself), _ = probed
    assert upstream_sees_them
    assert haiku_has_jax_itself


def test_import_does_not_report_oryx_as_an_error(probed):
    assert "Oryx" not in probed[-1]
