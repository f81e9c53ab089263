"""The command line, `comm-lopt`; each command has a file here."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence

from comm_lopt.cli.config import add_config
from comm_lopt.cli.data import add_data
from comm_lopt.cli.exit_codes import EXIT_CODES, run_command
from comm_lopt.cli.flags import add_debug_flag
from comm_lopt.cli.launch import add_launch
from comm_lopt.cli.lists import add_optimizers, add_tasks
from comm_lopt.cli.meta_test import add_meta_test
from comm_lopt.cli.meta_train import add_meta_train
from comm_lopt.cli.missing_bindings import missing_bindings_told
from comm_lopt.cli.pretrained import add_pretrained
from comm_lopt.cli.report import add_report
from comm_lopt.cli.run_train import add_convert, add_run_train
from comm_lopt.cli.streams import lasting_streams
from comm_lopt.cli.sweep import add_sweep
from comm_lopt.cli.train import add_train
from comm_lopt.meta_test.results import alone_in

__all__ = ["main"]

_COMMANDS = (
    add_meta_train,
    add_meta_test,
    add_sweep,
    add_report,
    add_train,
    add_launch,
    add_config,
    add_run_train,
    add_convert,
    add_tasks,
    add_optimizers,
    add_pretrained,
    add_data,
)

_EPILOG = """\
examples:
  comm-lopt meta-train --config_file experiments/digits.gin --train_log_dir runs/lopt_a
  comm-lopt sweep --config_file tasks/digits_mlp.gin --optimizer SlowMo --out_dir runs/slowmo
  comm-lopt meta-test --config_file tasks/digits_mlp.gin --theta runs/lopt_a/theta \\
      --optimizer LocalSGD:local_learning_rate=1 --tuned runs/slowmo --out_dir runs/comparison

exit codes:
""" + "\n".join(f"  {code:<8} {meaning}" for code, meaning in EXIT_CODES.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code, one of `EXIT_CODES`."""
    with lasting_streams():
        return _run(_parser().parse_args(argv))


def _run(arguments: argparse.Namespace) -> int:
    def command() -> int:
        with contextlib.ExitStack() as stack:
            if "out_dir" in arguments:
                stack.enter_context(alone_in(arguments.out_dir))
            stack.enter_context(missing_bindings_told())
            arguments.function(arguments)
        return 0

    return run_command(f"comm-lopt {arguments.command}", command, arguments.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="comm-lopt",
        description="Meta-train optimizers for the global step of local SGD, and compare them "
        "with tuned baselines at equal communication.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(debug=False)
    add_debug_flag(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add_command in _COMMANDS:
        add_command(commands)
    return parser
