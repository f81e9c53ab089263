"""A limit on the link by `tc`: it is one where it may be set, and otherwise merges wait."""

import subprocess
import sys
import types

import pytest

from comm_lopt.cli import launch as launching
from comm_lopt.cli import main
from comm_lopt.train import Link
from comm_lopt.train.shaping import in_limited_namespace, why_no_limit

LAUNCH = ["launch", "--throttle_mbps", "10", "-n", "4"]
TRANSFER = """
import socket, threading, time
with socket.create_server(("localhost", 0)) as server:
    def send():
        with socket.create_connection(server.getsockname()) as out:
            out.sendall(bytes(500_000))
    thread = threading.Thread(target=send)
    begin = time.monotonic()
    thread.start()
    connection, _ = server.accept()
    with connection:
        while connection.recv(1 << 16):
            pass
    print(time.monotonic() - begin)
    thread.join()
"""


@pytest.fixture
def launched(monkeypatch):
    """What is launched in place of being run, and what takes this process's place."""
    seen = types.SimpleNamespace(command=None, executed=None)

    def execvp(file, command):
        seen.executed = command
        raise SystemExit(0)

    monkeypatch.setattr(
        launching, "launch", lambda command, n, **more: setattr(seen, "command", command)
    )
    monkeypatch.setattr(launching.os, "execvp", execvp)
    return seen


def test_a_limited_link_has_the_speed_of_all_processes():
    link = Link(8.0)
    if why := why_no_limit(link, 2):
        pytest.skip(f"the link cannot be limited here: {why}")
    command = in_limited_namespace([sys.executable, "-c", TRANSFER], link, 2)
    took = float(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    # 2 · 8 Mbit/s, for the process that sends alone.
    assert took > 0.9 * 8 * 500_000 / 16e6


def test_a_launch_goes_on_in_a_namespace_of_its_own(launched, monkeypatch):
    monkeypatch.setattr(launching, "why_no_limit", lambda link, n: None)
    with pytest.raises(SystemExit):
        main([*LAUNCH, "--cores_per_process", "1", "--", "train", "--seed", "1"])
    assert launched.command is None and launched.executed[:2] == ["unshare", "--net"]
    (setting,) = [text for text in launched.executed if "tc qdisc" in text]
    assert "dev lo root tbf rate 40000000bit burst 8000b" in setting
    again = launched.executed[launched.executed.index("launch") :]
    one_core = ["launch", "-n", "4", "--cores_per_process", "1"]
    assert again == [*one_core, "--", "train", "--seed", "1"]


def test_a_launch_that_may_not_limit_the_link_waits_and_says_so(launched, monkeypatch, capsys):
    monkeypatch.setattr(launching, "why_no_limit", lambda link, n: "Operation not permitted")
    assert main([*LAUNCH, "--", "train"]) == 0
    assert launched.command == ["train", "--throttle_mbps=10.0"]
    assert "limited by tc (Operation not permitted): each merge waits" in capsys.readouterr().err


def test_why_there_is_no_limit_is_what_the_system_says(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda tool: tool)

    def refuse(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "unshare: Operation not permitted\n")

    assert why_no_limit(Link(1.0), 2, refuse) == "unshare: Operation not permitted"
    monkeypatch.setattr("shutil.which", lambda tool: None if tool == "tc" else tool)
    assert why_no_limit(Link(1.0), 2, refuse) == "there is no tc"
