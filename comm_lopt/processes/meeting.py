"""Where the processes of a run meet before JAX connects them.

JAX ends a process from C++ where another is missing or the port is taken, and says neither who it
is nor what to do. Here process 0 listens at the run's address until all others have said who they
are, tells them whether all are there, and leaves the port to JAX.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Mapping
from typing import Any

__all__ = ["ProcessError", "meet"]

_RETRY_SECONDS = 0.2
# For an answer that is on its way.
_ANSWER_SECONDS = 2.0
_MAX_BYTES = 512
_SHOWN = 10


class ProcessError(RuntimeError):
    """Processes of one run that do not find each other, or are of different runs."""


def meet(address: str, num_processes: int, process_id: int, seconds: float) -> None:
    """Returns once all processes of a run are at its address.

    Args:
      address: "HOST:PORT" of process 0.
      num_processes: how many there are.
      process_id: which one this is.
      seconds: how long it waits for the others.

    Raises:
      ValueError: an address of another form.
      ProcessError: says who is not there, or what is there in place of process 0.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(
            f"coordinator_address={address!r} is not HOST:PORT; pass one of that form."
        )
    if process_id:
        who = {"process_id": process_id, "num_processes": num_processes}
        _visit((host.strip("[]"), int(port)), who, seconds)
    else:
        _host((host, int(port)), num_processes, seconds)


def _host(address: tuple[str, int], num_processes: int, seconds: float) -> None:
    """What process 0 does."""
    where, deadline = "{}:{}".format(*address), time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(_listener(address[1], num_processes))
        except OSError as error:
            raise ProcessError(
                f"process 0 of {num_processes} cannot listen at {where} ({error.strerror}); pass "
                "all processes the address of its machine, with a port that is free there."
            ) from error
        came: set[Any] = set()
        connections: list[socket.socket] = []
        wrong = ""
        while not wrong and len(came) < num_processes - 1:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection = stack.enter_context(listener.accept()[0])
                told = _received(connection, _ANSWER_SECONDS)
            except TimeoutError:
                if time.monotonic() >= deadline:
                    missing = [n for n in range(1, num_processes) if n not in came]
                    wrong = (
                        f"of {num_processes} processes {missing[:_SHOWN]} did not come to {where} "
                        f"within {seconds:g} s; start all of them, with the same address."
                    )
                continue
            except (OSError, ValueError):
                continue
            connections.append(connection)
            wrong = _wrong(told, num_processes, came)
            came.add(told.get("process_id"))
        listener.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                _send(connection, {"wrong": wrong})
        for connection in connections:
            # They close first: who does keeps the port for a while.
            with contextlib.suppress(OSError):
                connection.recv(1)
    if wrong:
        raise ProcessError(wrong)


def _wrong(told: Mapping[str, Any], num_processes: int, came: set[Any]) -> str:
    """What is wrong with a process that came, if anything."""
    number, of = told.get("process_id"), told.get("num_processes")
    fix = f"number them from 0 to {num_processes - 1}, and pass all the same num_processes."
    if of != num_processes:
        return (
            f"process {number!r:.20} was started with num_processes={of!r:.20}, and process 0 with "
            f"{num_processes}; {fix}"
        )
    if number in came:
        return f"two processes were started with process_id={number}; {fix}"
    return ""


def _visit(address: tuple[str, int], who: Mapping[str, int], seconds: float) -> None:
    """What every other process does."""
    name = "process {process_id} of {num_processes}".format(**who)
    deadline, why, wrong = time.monotonic() + seconds, "", None
    while wrong is None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise ProcessError(
                f"{name}: process 0 did not answer at {address[0]}:{address[1]} within "
                f"{seconds:g} s ({why}); start it too, with the same address, on a port that is "
                "free and that this machine can reach."
            )
        try:
            with socket.create_connection(address, left) as connection:
                _send(connection, who)
                # Process 0 may have begun to wait just now.
                wrong = str(_received(connection, seconds + _ANSWER_SECONDS)["wrong"])
        except OSError as error:
            why = error.strerror or str(error)
        except (ValueError, KeyError):
            why = "something else listens there"
        if wrong is None:
            time.sleep(_RETRY_SECONDS)
    if wrong:
        raise ProcessError(f"{name}: {wrong}")
    _until_it_listens(address)


def _until_it_listens(address: tuple[str, int]) -> None:
    """JAX, which would try again after a second, finds its coordinator there at once."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(address, _ANSWER_SECONDS):
            return
        time.sleep(0.02)


def _listener(port: int, backlog: int) -> socket.socket:
    """On all interfaces, as JAX's coordinator."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server(("", port), family=family, backlog=backlog, dualstack_ipv6=dual)


def _send(connection: socket.socket, told: Mapping[str, Any]) -> None:
    connection.sendall(json.dumps(told).encode()[: _MAX_BYTES - 1] + b"\n")


def _received(connection: socket.socket, seconds: float) -> dict[str, Any]:
    """What the other end says, in a line.

    Raises:
      ValueError: it says something else, or nothing.
      TimeoutError: it does not say it within so many seconds.
    """
    connection.settimeout(seconds)
    with connection.makefile("rb") as lines:
        told = json.loads(lines.readline(_MAX_BYTES))
    if not isinstance(told, dict):
        raise ValueError(f"{told!r:.50} is no line of a run.")
    return told
