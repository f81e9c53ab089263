"""The command `comm-lopt launch`: starts the processes of a run on one machine."""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, TextIO

from comm_lopt.cli.exit_codes import exit_code
from comm_lopt.cli.flags import add_parser
from comm_lopt.meta_train.errors import RunStopped
from comm_lopt.train.processes import ProcessError

__all__ = ["add_launch", "free_port", "launch"]

_GRACE_SECONDS = 25.0
_POLL_SECONDS = 0.1


def add_launch(commands: Any) -> None:
    """Adds the command and its flags."""
    parser = add_parser(commands, "launch", _launch, "start the processes of a run on this machine")
    parser.add_argument(
        "-n", dest="num_processes", type=int, required=True, metavar="N", help="how many"
    )
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="-- train ...",
        help="another command of comm-lopt with its flags, behind --",
    )


def _launch(arguments: argparse.Namespace) -> None:
    command = arguments.arguments[arguments.arguments[:1] == ["--"] :]
    if not command:
        raise ValueError("nothing to launch; write comm-lopt launch -n 2 -- train ...")
    launch(command, arguments.num_processes)


def launch(
    command: Sequence[str], num_processes: int, out: TextIO | None = None, err: TextIO | None = None
) -> None:
    """Runs a command of comm-lopt in N processes that find each other, and waits for them.

    What they print has the number of the process before each line. If one fails, the others are
    given 25 seconds to end by themselves.

    Args:
      command: such as ["train", "--config_file", ...].
      num_processes: N.
      out: where their output goes; this process's if None.
      err: where what they print on stderr goes.

    Raises:
      ValueError: N below 1.
      ProcessError: names the process that failed first, and its exit code.
      RunStopped: a signal stopped them.
    """
    if num_processes < 1:
        raise ValueError(f"-n {num_processes}: at least 1 process is needed.")
    address = f"localhost:{free_port()}"
    processes: list[subprocess.Popen[str]] = []
    threads = []
    with _forwarding(processes):
        for process_id in range(num_processes):
            flags = {
                "coordinator_address": address,
                "num_processes": num_processes,
                "process_id": process_id,
            }
            told = [f"--{name}={value}" for name, value in flags.items()]
            process = subprocess.Popen(
                [sys.executable, "-m", "comm_lopt", *command, *told],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
            processes.append(process)
            for source, target in (
                (process.stdout, out or sys.stdout),
                (process.stderr, err or sys.stderr),
            ):
                thread = threading.Thread(
                    target=_copy, args=(source, target, f"[{process_id}] "), daemon=True
                )
                thread.start()
                threads.append(thread)
        failed = _first_failure(processes)
    for thread in threads:
        thread.join(_GRACE_SECONDS)
    if failed is None:
        return
    process_id, code = failed
    if code in (128 + signal.SIGTERM, 128 + signal.SIGINT):
        raise RunStopped(f"process {process_id} was stopped; see above.", code - 128)
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    raise ProcessError(
        f"process {process_id} of {num_processes} {how}, and the others were ended; its last "
        "words are above. The same command with --resume goes on from the last checkpoint."
    )


def _first_failure(processes: Sequence[subprocess.Popen[str]]) -> tuple[int, int] | None:
    """(number, exit code) of the process that failed first, once all have ended.

    One that says that another is gone has not failed by itself.
    """
    failed: dict[int, int] = {}
    deadline = math.inf
    while True:
        running = [process for process in processes if process.poll() is None]
        if time.monotonic() <= deadline:
            codes = ((number, process.returncode) for number, process in enumerate(processes))
            failed |= {number: code for number, code in codes if code and number not in failed}
        if failed and deadline == math.inf:
            deadline = time.monotonic() + _GRACE_SECONDS
        if not running:
            break
        if time.monotonic() > deadline:
            for process in running:
                process.kill()
        time.sleep(_POLL_SECONDS)
    told_of_another = exit_code(ProcessError())
    causes = [(number, code) for number, code in failed.items() if code != told_of_another]
    return next(iter(causes), next(iter(failed.items()), None))


@contextlib.contextmanager
def _forwarding(processes: list[subprocess.Popen[str]]) -> Any:
    """Signals that come to this process go on to all; at a second one they are killed."""
    came = 0

    def send(number: int, frame: object) -> None:
        nonlocal came
        del frame
        came += 1
        for process in processes:
            if process.poll() is None:
                process.send_signal(number if came == 1 else signal.SIGKILL)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.signal(number, send) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _copy(source: Any, target: TextIO, prefix: str) -> None:
    with source:
        for line in source:
            target.write(prefix + line)
            target.flush()


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
        return port
