"""The command `comm-lopt launch`: starts the processes of a run on one machine."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
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
from comm_lopt.long_runs.errors import RunStopped
from comm_lopt.processes import ProcessError
from comm_lopt.train.link import Link
from comm_lopt.train.shaping import in_limited_namespace, why_no_limit

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
        "--cores_per_process",
        type=int,
        metavar="C",
        help="keep each process on C cores of its own (default: all have all cores); Linux only",
    )
    parser.add_argument(
        "--throttle_mbps",
        type=float,
        metavar="X",
        help="limit what each process sends to 10⁶ bit/s times X, by tc where it may be used",
    )
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="-- train|meta-train ...",
        help="another command of comm-lopt with its flags, behind --",
    )


def _launch(arguments: argparse.Namespace) -> None:
    command = arguments.arguments[arguments.arguments[:1] == ["--"] :]
    if not command:
        raise ValueError("nothing to launch; write comm-lopt launch -n 2 -- train ...")
    cores = arguments.cores_per_process
    if arguments.throttle_mbps is not None:
        flags = ["-n", str(arguments.num_processes)]
        flags += [] if cores is None else ["--cores_per_process", str(cores)]
        link = Link(arguments.throttle_mbps)
        command = _throttled(flags, command, arguments.num_processes, link)
    launch(command, arguments.num_processes, cores_per_process=cores)


def _throttled(flags: list[str], command: list[str], num_processes: int, link: Link) -> list[str]:
    """Goes on as this command on a limited link, or else gives one that waits for as long."""
    why = why_no_limit(link, num_processes)
    if why is None:
        again = [sys.executable, "-m", "comm_lopt", "launch", *flags, "--"]
        limited = in_limited_namespace([*again, *command], link, num_processes)
        print(f"each process sends at most {link.mbps:g} Mbit/s, by tc", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execvp(limited[0], limited)
    print(
        f"the link cannot be limited by tc ({why:.300}): each merge waits for as long instead",
        file=sys.stderr,
    )
    return [*command, f"--throttle_mbps={link.mbps}"]


def launch(
    command: Sequence[str],
    num_processes: int,
    out: TextIO | None = None,
    err: TextIO | None = None,
    cores_per_process: int | None = None,
) -> None:
    """Runs a command of comm-lopt in N processes that find each other, and waits for them.

    What they print has the number of the process before each line. If one fails, the others are
    given 25 seconds to end by themselves.

    Args:
      command: such as ["train", "--config_file", ...].
      num_processes: N.
      out: where their output goes; this process's if None.
      err: where what they print on stderr goes.
      cores_per_process: the cores that each process is kept on, none of them another's. None: each
        may use all that this process may.

    Raises:
      ValueError: N below 1, or more cores than there are.
      ProcessError: names the process that failed first, and its exit code.
      RunStopped: a signal stopped them.
    """
    if num_processes < 1:
        raise ValueError(f"-n {num_processes}: at least 1 process is needed.")
    cores = _cores(num_processes, cores_per_process)
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
                # Ctrl-C at a terminal comes to all of a session, and is passed on here as well.
                start_new_session=True,
            )
            processes.append(process)
            if cores:
                # Long before XLA counts the cores.
                os.sched_setaffinity(process.pid, cores[process_id])
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


def _cores(num_processes: int, each: int | None) -> list[set[int]]:
    """The cores of each process; [] where they are not divided."""
    if each is None:
        return []
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError(f"--cores_per_process {each}: only Linux keeps processes on cores.")
    there = sorted(os.sched_getaffinity(0))
    if each < 1 or num_processes * each > len(there):
        raise ValueError(
            f"--cores_per_process {each} with -n {num_processes}: there are {len(there)} cores; "
            "take at least 1 for each process, and no more than there are."
        )
    return [set(there[n * each : (n + 1) * each]) for n in range(num_processes)]


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
    passed_on = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # `nohup` has it ignored.
        passed_on.append(signal.SIGHUP)
    earlier = {number: signal.signal(number, send) for number in passed_on}
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
