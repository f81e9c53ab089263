"""Tests of the messages that are left out of the log."""

import logging

from absl import logging as absl_logging

import comm_lopt


def test_reading_gin_files_logs_no_errors(fresh_gin, caplog):
    comm_lopt.load_config(["experiments/digits.gin"])
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_other_messages_are_logged(caplog):
    absl_logging.error("Something else")
    logging.error("Path not found: %s", "of someone else's")
    assert [record.getMessage() for record in caplog.records] == [
        "Something else",
        "Path not found: of someone else's",
    ]
