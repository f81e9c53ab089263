"""The command line: `comm-lopt meta-train | meta-test | sweep | tasks | optimizers | data`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from comm_lopt.cli.data import add_data
from comm_lopt.cli.lists import add_optimizers, add_tasks
from comm_lopt.cli.meta_test import add_meta_test
from comm_lopt.cli.meta_train import add_meta_train
from comm_lopt.cli.sweep import add_sweep
from comm_lopt.meta_train import DivergedError, RunStopped

__all__ = ["main"]

_COMMANDS = (add_meta_train, add_meta_test, add_sweep, add_tasks, add_optimizers, add_data)

_ERRORS = (ValueError, TypeError, OSError, ImportError, DivergedError)

_EPILOG = """\
examples:
  comm-lopt meta-train --config_file experiments/quickstart.gin --train_log_dir runs/lopt_a
  comm-lopt sweep --config_file tasks/digits_mlp.gin --optimizer SlowMo --out_dir runs/slowmo
  comm-lopt meta-test --config_file tasks/digits_mlp.gin --theta runs/lopt_a/theta \\
      --optimizer LocalSGD:local_learning_rate=1 --tuned runs/slowmo --out_dir runs/comparison
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status.

    It is 0, or 2 after an error, which is printed, or 128 and the number of the signal after
    which meta-training stopped with all its work saved: 143 for SIGTERM, 130 for Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.function(arguments)
    except RunStopped as stopped:
        return _tell(arguments.command, stopped, stopped.exit_status)
    except _ERRORS as error:
        if arguments.debug:
            raise
        return _tell(arguments.command, error, 2)
    return 0


def _tell(command: str, error: Exception, exit_status: int) -> int:
    """Prints an error without the Python functions that gin adds to its message."""
    message = str(error).split("\n  In call to configurable")[0]
    print(f"comm-lopt {command}: {message}", file=sys.stderr)
    return exit_status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="comm-lopt",
        description="Meta-train optimizers for the global step of local SGD, and compare them "
        "with tuned baselines at equal communication.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add_command in _COMMANDS:
        add_command(commands)
    return parser
