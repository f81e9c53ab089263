"""A real limit on what the processes of one machine exchange: `tc` on a loopback of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence

from comm_lopt.train.link import Link

__all__ = ["in_limited_namespace", "why_no_limit"]

_TIMEOUT_SECONDS = 10.0
_TOOLS = ("unshare", "ip", "tc")
# Packets of a real network: those of the loopback, of 64 KiB, would pass a slow link in bursts.
_MTU = 1500
_LEAST_BURST = 8000
_BURST_SECONDS = 0.001


def in_limited_namespace(command: Sequence[str], link: Link, num_processes: int) -> list[str]:
    """A command in a network namespace of its own, whose loopback is as fast as N links.

    In a ring all N processes send at once, so that each gets the link's speed. Nothing else on the
    machine is slowed down, and the limit ends with the last process in it.

    Args:
      command: what is to run.
      link: of each process.
      num_processes: N.
    """
    bits = round(1e6 * link.mbps * num_processes)
    burst = max(_LEAST_BURST, round(bits / 8 * _BURST_SECONDS))
    setting = (
        f"ip link set lo mtu {_MTU} up && "
        f"tc qdisc add dev lo root tbf rate {bits}bit burst {burst}b latency 400ms && "
        'exec "$@"'
    )
    # Who is not root may be it in a user namespace.
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", "--net", *user, "sh", "-c", setting, "sh", *command]


def why_no_limit(
    link: Link, num_processes: int, run: Callable[..., subprocess.CompletedProcess] = subprocess.run
) -> str | None:
    """Why this machine does not let such a command run; None if it does.

    Args:
      link: as for `in_limited_namespace`.
      num_processes: likewise.
      run: starts a command.
    """
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"there is no {' and no '.join(missing)}"
    command = in_limited_namespace(["true"], link, num_processes)
    try:
        tried = run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if tried.returncode:
        return tried.stderr.strip() or f"{command[0]} ended with exit code {tried.returncode}"
    return None
