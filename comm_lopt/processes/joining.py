"""How the processes of a run find each other, and fail together."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import jax

from comm_lopt.processes.board import shared_board
from comm_lopt.processes.meeting import ProcessError, meet

__all__ = ["joined", "together"]

_HEARTBEAT_SECONDS = 20
_JOIN_SECONDS = 50
_POLL_SECONDS = 0.05
_LONGEST_TOLD = 2000
_blocks = itertools.count()


@contextlib.contextmanager
def joined(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    join_seconds: int = _JOIN_SECONDS,
) -> Iterator[None]:
    """In this block the process is one of several, as `jax.distributed.initialize` makes it.

    With no argument it is alone, unless JAX detects a cluster (SLURM, Open MPI, Kubernetes). A
    process that dies ends the others within 20 seconds.

    Args:
      coordinator_address: host and port of process 0.
      num_processes: how many there are.
      process_id: which one this is, from 0 on.
      join_seconds: how long it waits for the others.

    Raises:
      ValueError: some of the three are given and not all, a number is out of range, or an address
        is none.
      ProcessError: the others were not there in time, or the port is taken.
    """
    given: dict[str, Any] = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ValueError(
            f"--{', --'.join(missing)} missing beside --"
            f"{', --'.join(name for name in given if name not in missing)}; pass all three, or "
            "none on a cluster that JAX detects."
        )
    if process_id is not None and not 0 <= process_id < (num_processes or 0):
        raise ValueError(
            f"process_id={process_id} is none of num_processes={num_processes}; processes are "
            "numbered from 0 on."
        )
    if missing and not _on_a_cluster():
        yield
        return
    address, number_of, number = _of_a_cluster(join_seconds) if missing else tuple(given.values())
    meet(address, number_of, number, join_seconds)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=join_seconds,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except RuntimeError as error:
        who = "" if process_id is None else f"process {process_id} of {num_processes}: "
        raise ProcessError(
            f"{who}the others did not meet at {coordinator_address} within {join_seconds} s "
            f"({str(error).splitlines()[0]:.300}); start all of them, with the same address, on a "
            "port that is free and that each machine can reach."
        ) from error
    try:
        yield
    except Exception:
        # To part in order takes all of them: one may be gone, or not know of this error.
        raise
    except BaseException:
        with contextlib.suppress(Exception):
            jax.distributed.shutdown()
        raise
    jax.distributed.shutdown()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """A block in which a process can fail alone; all processes call it, and all fail if one does.

    Without it the others would wait for that one in their next exchange.

    Raises:
      ProcessError: in those where the block went well; names the others, with their errors.
    """
    board, block = shared_board(), next(_blocks)
    if board is None:
        yield
        return
    here = jax.process_index()

    def name(process: int) -> str:
        return f"comm_lopt/together/{block}/{process}"

    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    told = "" if own is None else f"{type(own).__name__}: {own}"[:_LONGEST_TOLD]
    board.post(name(here), json.dumps(told))
    failed = {}
    for process in range(jax.process_count()):
        while (text := board.read(name(process))) is None:
            time.sleep(_POLL_SECONDS)
        if json.loads(text):
            failed[process] = json.loads(text)
    if not failed:
        return
    # In order, since all are there: afterwards each can end by itself.
    jax.distributed.shutdown()
    if own is not None:
        raise own
    lines = "".join(f"\n  process {process}: {error}" for process, error in failed.items())
    raise ProcessError(f"process {here} ends because another failed; mend that one:{lines}")


def _of_a_cluster(seconds: int) -> tuple[Any, Any, Any]:
    """Coordinator's address, number of processes and this one's, as JAX finds them out."""
    from jax._src.clusters import ClusterEnv

    found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, seconds)
    return found[:3]


def _on_a_cluster() -> bool:
    from jax._src.clusters import ClusterEnv

    kinds = (kind for kind in ClusterEnv._cluster_types if not kind.opt_in_only_method)
    return any(kind.is_env_present() for kind in kinds)
