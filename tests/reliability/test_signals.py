"""SIGTERM and Ctrl-C: the meta-step is finished and saved; a second Ctrl-C stops at once."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
from small_run import checkpoint_steps, finish, rows, start, temporary_files, theta_bytes

from comm_lopt.long_runs.stop_signals import StopSignals
from comm_lopt.meta_train import RunStopped

STEPS = "num_meta_steps = 30"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    status, printed = finish(start(folder, STEPS))
    assert status == 0, printed
    return folder


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.reliability)],
)
def test_signal_saves_and_says_how_to_go_on(tmp_path, whole, number, status):
    folder = tmp_path / "run"
    # Between two checkpoints, so that the one found afterwards is the signal's.
    process = start(folder, STEPS, "meta_train.checkpoint_every = 7")
    while process.poll() is None and not (folder / "checkpoints" / "7").exists():
        time.sleep(0.01)
    process.send_signal(number)
    found, printed = finish(process)
    assert found == status, printed
    assert f"{signal.Signals(number).name}: stops after this meta-step" in printed
    assert "the same command with --resume goes on" in printed
    done = rows(folder)[-1]["meta_step"]
    assert int(done) == checkpoint_steps(folder)[-1] < 30
    assert f"after meta-step {done} of 30" in printed
    assert temporary_files(folder) == set()
    found, printed = finish(start(folder, STEPS, resume=True))
    assert found == 0, printed
    assert theta_bytes(folder) == theta_bytes(whole)
    assert rows(folder) == rows(whole)


LONG_COMPUTATION = """
import hashlib
from comm_lopt.long_runs.stop_signals import StopSignals, ends_the_process
with ends_the_process(), StopSignals():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2 * 10**9)  # hours, and Python's handlers wait for it
"""


def test_second_interrupt_ends_a_long_computation_at_once():
    command = [sys.executable, "-c", LONG_COMPUTATION]
    process = subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - begin < 5
    assert "Ctrl-C now stops at once" in printed and "stopped at once" in printed


def interrupt_and_wait(stop):
    signal.raise_signal(signal.SIGINT)
    deadline = time.monotonic() + 10
    while stop.requested is None and time.monotonic() < deadline:
        time.sleep(0.001)


def test_second_interrupt_of_interactive_python_raises_in_it(capsys):
    with pytest.raises(KeyboardInterrupt), StopSignals() as stop:
        interrupt_and_wait(stop)
        begin = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)
    assert time.monotonic() - begin < 10
    assert "stopped at once" in capsys.readouterr().err
    # And again, with nothing left of the one before.
    with StopSignals() as stop:
        interrupt_and_wait(stop)
    assert stop.requested == signal.SIGINT


def test_loop_that_passes_over_errors_ends_with_a_stopped_run():
    done = []
    with pytest.raises(RunStopped):
        for number in range(3):
            with contextlib.suppress(Exception):
                done.append(number)
                raise RunStopped("stopped", signal.SIGTERM)
    assert done == [0]


def test_stopped_run_passes_from_one_process_to_another():
    found = pickle.loads(pickle.dumps(RunStopped("stopped after meta-step 3", signal.SIGTERM)))
    assert (str(found), found.exit_status) == ("stopped after meta-step 3", 143)


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        while stop.requested is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stop.requested == signal.SIGTERM
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
