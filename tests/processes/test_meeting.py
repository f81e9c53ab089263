"""Processes that meet before JAX connects them, here as threads: what is wrong is told in all."""

import concurrent.futures
import contextlib
import socket
import time

import pytest

from comm_lopt.cli.launch import free_port
from comm_lopt.processes.meeting import meet
from comm_lopt.train import ProcessError, joined


def outcomes(*calls, seconds=3.0):
    """The errors of processes that meet, or "", in the order of the calls."""

    def one(arguments):
        try:
            meet(*arguments, seconds)
        except ProcessError as error:
            return str(error)
        return ""

    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


@contextlib.contextmanager
def listening(answer=None):
    """Somebody else at an address, who takes connections and says nothing, or that."""
    with socket.create_server(("localhost", 0)) as server:
        if answer is None:
            yield f"localhost:{server.getsockname()[1]}"
            return
        with concurrent.futures.ThreadPoolExecutor() as pool:

            def say():
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = server.accept()
                        with connection:
                            connection.sendall(answer)

            pool.submit(say)
            yield f"localhost:{server.getsockname()[1]}"
            server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def address():
    return f"localhost:{free_port()}"


@pytest.fixture
def at_once(monkeypatch):
    """Nobody waits for JAX's coordinator, which does not come."""
    monkeypatch.setattr("comm_lopt.processes.meeting._ANSWER_SECONDS", 0.2)


def test_processes_that_are_all_there_go_on_and_leave_the_port(address, at_once):
    assert outcomes((address, 3, 2), (address, 3, 0), (address, 3, 1)) == [""] * 3
    with socket.create_server(("localhost", int(address.rpartition(":")[2]))):
        pass


def test_who_is_missing_is_named_in_all(address, at_once):
    told = outcomes((address, 4, 0), (address, 4, 2), seconds=0.5)
    for text in told:
        assert f"of 4 processes [1, 3] did not come to {address} within 0.5 s" in text
    assert told[1].startswith("process 2 of 4: ")


def test_a_coordinator_that_never_answers_is_an_error_in_time(at_once):
    begin = time.monotonic()
    with listening() as silent, pytest.raises(ProcessError, match="process 1 of 2: .*timed out"):
        meet(silent, 2, 1, 0.3)
    with listening(b"HTTP/1.1 400 Bad Request\n") as other:
        (told,) = outcomes((other, 2, 1), seconds=0.3)
    assert "something else listens there" in told
    assert time.monotonic() - begin < 5


def test_nobody_at_the_address_is_an_error_in_time(address):
    told = "process 1 of 2: process 0 did not answer at .* within 1 s .*refused.*port that is free"
    with pytest.raises(ProcessError, match=told), joined(address, 2, 1, join_seconds=1):
        pass


def test_a_port_in_use_is_told(at_once):
    told = "process 0 of 2 cannot listen at .*already in use"
    with listening() as taken, pytest.raises(ProcessError, match=told):
        meet(taken, 2, 0, 0.3)


def test_numbers_that_do_not_fit_are_told_in_both(address, at_once):
    for text in outcomes((address, 2, 0), (address, 3, 2)):
        assert "process 2 was started with num_processes=3, and process 0 with 2" in text
    told = outcomes((address, 3, 0), (address, 3, 1), (address, 3, 1))
    assert all("two processes were started with process_id=1" in text for text in told)


def test_strangers_do_not_count(address, at_once):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(outcomes, (address, 2, 0))
        host, _, port = address.partition(":")
        for line in (b"GET / HTTP/1.1\n", b"[1]\n", b""):
            for _ in range(100):
                with contextlib.suppress(ConnectionRefusedError):
                    with socket.create_connection((host, int(port)), 1) as stranger:
                        stranger.sendall(line)
                    break
                time.sleep(0.01)
        assert outcomes((address, 2, 1)) == [""]
        assert first.result() == [""]


@pytest.mark.parametrize("address", ["localhost", "localhost:x", ":12", "localhost:99999"])
def test_an_address_has_a_host_and_a_port(address):
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        meet(address, 2, 1, 0.1)
