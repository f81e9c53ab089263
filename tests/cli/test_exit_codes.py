"""The exit code tells what ended a command, and is the same with and without a traceback."""

import errno
import os
import pathlib

import pytest

from comm_lopt import ThetaError
from comm_lopt.atomic import BusyError
from comm_lopt.cli import main
from comm_lopt.cli.exit_codes import EXIT_CODES, run_command
from comm_lopt.data.sources.folder import DataError
from comm_lopt.meta_test import ResultsError
from comm_lopt.meta_test.results import alone_in
from comm_lopt.meta_train import (
    CheckpointError,
    DivergedError,
    ResumeError,
    RunStopped,
    SaveError,
)

ENDINGS = [
    (ValueError("a"), 2),
    (ImportError("a"), 2),
    (ResumeError("a"), 2),
    (FileNotFoundError(errno.ENOENT, "a"), 2),
    (FileExistsError("a"), 2),
    (DataError("a"), 3),
    (ThetaError("a"), 3),
    (ResultsError("a"), 3),
    (CheckpointError("a"), 3),
    (DivergedError("a"), 4),
    (SaveError("a"), 5),
    (OSError(errno.EIO, os.strerror(errno.EIO), "train.npy"), 5),
    (PermissionError(errno.EACCES, "a"), 5),
    (BusyError("a"), 6),
    (RunStopped("a", 15), 143),
    (KeyboardInterrupt(), 130),
]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(("error", "code"), ENDINGS)
def test_each_kind_of_error_has_its_code(error, code, debug, capsys):
    def command():
        raise error

    assert run_command("comm-lopt x", command, debug) == code
    told = capsys.readouterr().err
    assert told.splitlines()[-1] == f"comm-lopt x: {str(error) or 'interrupted'}"
    assert ("Traceback" in told) == debug


@pytest.mark.parametrize("command", ["meta-test", "sweep"])
def test_second_job_in_an_out_dir_is_refused_while_the_first_is_at_it(tmp_path, command, capsys):
    arguments = [command, "--config_file", "x.gin", "--optimizer", "LocalSGD"]
    with alone_in(tmp_path):
        assert main([*arguments, "--out_dir", str(tmp_path)]) == 6
    told = capsys.readouterr().err
    assert f"another process is at {tmp_path}" in told and "pass another --out_dir" in told
    assert main([*arguments, "--out_dir", str(tmp_path)]) == 2


def test_error_that_nobody_foresaw_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command("comm-lopt x", lambda: 1 // 0)


def test_help_and_page_have_the_table(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    page = (pathlib.Path(__file__).parents[2] / "docs" / "reliability.md").read_text("utf-8")
    for code, meaning in EXIT_CODES.items():
        assert f"{code:<8} {meaning}" in shown
        assert f"| {code} | {meaning} |" in page
