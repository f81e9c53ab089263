"""Tests of the two messages that are left out of the log."""

import logging
import os
import pathlib
import subprocess
import sys

import gin
import pytest
from absl import logging as absl_logging

import comm_lopt


def test_import_does_not_report_oryx_as_an_error(tmp_path):
    root = pathlib.Path(comm_lopt.__file__).parents[1]
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, "-c", "import comm_lopt.upstream"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Oryx" not in result.stderr


def test_gin_file_that_is_found_further_on_is_not_an_error(fresh_gin, caplog):
    gin.parse_config("include 'outer_training.gin'")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_gin_file_that_is_nowhere_still_raises(fresh_gin):
    with pytest.raises(OSError, match="Unable to open file: nowhere.gin"):
        gin.parse_config("include 'nowhere.gin'")


def test_other_messages_are_logged(caplog):
    absl_logging.error("Something else")
    logging.error("Path not found: %s", "of someone else's")
    assert [record.getMessage() for record in caplog.records] == [
        "Something else",
        "Path not found: of someone else's",
    ]
