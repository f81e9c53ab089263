"""Commands that are one run of several processes: their flags, and how such a process ends."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

import jax

from comm_lopt.cli.exit_codes import exit_code, tell
from comm_lopt.processes import joined

__all__ = ["add_process_flags", "joined_as_told"]


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags by which processes find each other, as `jax.distributed` has them."""
    parser.add_argument(
        "--coordinator_address", metavar="HOST:PORT", help="of process 0, for several processes"
    )
    parser.add_argument("--num_processes", type=int, metavar="N", help="how many there are")
    parser.add_argument("--process_id", type=int, metavar="I", help="which one this is, from 0")


@contextlib.contextmanager
def joined_as_told(arguments: argparse.Namespace) -> Iterator[None]:
    """`joined`, with the flags of `add_process_flags`; an error ends the process at once."""
    try:
        with joined(arguments.coordinator_address, arguments.num_processes, arguments.process_id):
            yield
    except Exception as error:
        if not jax.distributed.is_initialized():
            raise
        code = exit_code(error)
        if code is None or arguments.debug:
            traceback.print_exc()
        tell(f"comm-lopt {arguments.command}", error)
        sys.stdout.flush()
        # JAX's clean-up would wait for a process that is gone, or that waits for this one, and
        # then abort. So the others see at once that this one is gone.
        os._exit(code or 1)
