"""What is printed may be read by nobody: the work goes on, and ends as it would."""

import io
import os
import subprocess
import sys

import pytest

from comm_lopt.cli import streams

# The file alone, for the package takes seconds to import.
PRINTS = """
import runpy, sys
with runpy.run_path(sys.argv[1])["lasting_streams"]():
    for number in range(20_000):
        print("a line that fills the pipe", number)
        print("a line that fills the pipe", number, file=sys.stderr)
    with open("done", "w") as file:
        file.write(f"{file.fileno()}")
"""


@pytest.mark.parametrize(
    "redirected",
    ["2>/dev/null | head -1", "2>&1 >/dev/null | head -1", ">&-", "2>&-", ">&- 2>&- <&-"],
)
def test_work_goes_on_when_nobody_reads(tmp_path, redirected):
    (tmp_path / "prints.py").write_text(PRINTS, encoding="utf-8")
    command = f"set -o pipefail; {sys.executable} prints.py {streams.__file__} {redirected}"
    result = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Error" not in result.stderr and "Exception" not in result.stderr
    # No file of the work stands where libraries print.
    assert int((tmp_path / "done").read_text(encoding="utf-8")) > 2


def test_sign_that_a_terminal_does_not_know_is_no_error(monkeypatch):
    bytes_out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(bytes_out, encoding="ascii"))
    with streams.lasting_streams():
        print("0.5 ± 0.1")
    assert bytes_out.getvalue() == rb"0.5 \xb1 0.1" + os.linesep.encode()


def test_streams_are_put_back(capsys):
    before = sys.stdout, sys.stderr
    with pytest.raises(SystemExit), streams.lasting_streams():
        print("out")
        print("err", file=sys.stderr)
        raise SystemExit(3)
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == ("out\n", "err\n")
