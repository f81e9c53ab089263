"""Tests of the messages that are left out of the log."""

import logging

import gin
import pytest
from absl import logging as absl_logging


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


def test_gin_reports_the_file_of_others_once_as_it_would_without_comm_lopt(fresh_gin, caplog):
    with pytest.raises(OSError, match="Unable to open file"):
        gin.parse_config("include 'someone/elses.gin'")
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "Path not found: someone/elses.gin"
    ]
