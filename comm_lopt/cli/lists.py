"""The commands `comm-lopt tasks` and `comm-lopt optimizers`: list what ships."""

from __future__ import annotations

import argparse
from typing import Any

import comm_lopt
from comm_lopt.cli.flags import add_parser
from comm_lopt.config import shipped_gin_files
from comm_lopt.methods import hand_designed

__all__ = ["add_optimizers", "add_tasks"]


def add_tasks(commands: Any) -> None:
    """Adds `comm-lopt tasks`."""
    add_parser(commands, "tasks", _tasks, "list the tasks and the gin files that ship")


def add_optimizers(commands: Any) -> None:
    """Adds `comm-lopt optimizers`."""
    add_parser(commands, "optimizers", _optimizers, "list the global optimizers")


def _tasks(arguments: argparse.Namespace) -> None:
    del arguments
    columns = "{:<22} {:<22} {:>11}  {:<54} {}"
    print(columns.format("task", "data", "parameters", "network", "in the paper"))
    for name, entry in comm_lopt.TASKS.items():
        size = f"{entry.num_parameters:,}"
        print(columns.format(name, entry.data, size, entry.summary, entry.paper).rstrip())
    print("\ngin files (for --config_file and include):")
    for file in shipped_gin_files():
        print(f"  {file}")


def _optimizers(arguments: argparse.Namespace) -> None:
    del arguments
    sent = {
        "mean": "delta",
        "mean_and_squares": "delta, square",
        "worker_deltas": "delta to all",
        "gradient": "a gradient",
    }
    columns = "{:<18} {:<13} {:<12} {:<24} {}"
    print(columns.format("optimizer", "workers send", "local steps", "source", ""))
    for name, entry in comm_lopt.OPTIMIZERS.items():
        local = {"gradient": "none"}.get(entry.sends, entry.local_opt)
        print(columns.format(name, sent[entry.sends], local, entry.source, entry.summary))
        grid = {} if entry.is_learned else hand_designed(name).grid
        for key, values in grid.items():
            print(f"{'':<18}   {key}: {', '.join(f'{value:g}' for value in values)}")
    print("\nand optax.NAME, and what your own modules register with gin (--gin_import).")
