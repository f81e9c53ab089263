"""The command `comm-lopt train`: a real run, on the devices of one process or of many."""

from __future__ import annotations

import argparse
import os
from typing import Any

import jax

from comm_lopt import meta_test
from comm_lopt.cli.flags import add_config_flags, add_parser, load_config_of
from comm_lopt.cli.method_specs import method_of_spec, method_of_sweep, method_of_theta
from comm_lopt.cli.several_processes import add_process_flags, joined_as_told
from comm_lopt.methods import Method
from comm_lopt.processes import together
from comm_lopt.train import Link, TrainSummary, train

__all__ = ["add_train"]


def add_train(commands: Any) -> None:
    """Adds the command and its flags."""
    parser = add_parser(
        commands, "train", _train, "train a task with workers that are devices or processes"
    )
    add_config_flags(parser)
    method = parser.add_mutually_exclusive_group(required=True)
    method.add_argument("--theta", metavar="DIR[:KEY=X,...]", help="as for meta-test")
    method.add_argument("--optimizer", metavar="NAME[:KEY=X,...]", help="as for meta-test")
    method.add_argument("--tuned", metavar="DIR", help="the best point of a sweep")
    # Process 0 alone has it, so that `main` is not to lock it as it does an `out_dir`.
    parser.add_argument(
        "--out_dir",
        dest="folder",
        required=True,
        type=os.path.expanduser,
        metavar="DIR",
        help="folder for rounds.csv, evaluations.csv, checkpoints/, TensorBoard events",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the run (default: 0)")
    parser.add_argument("--resume", action="store_true", help="go on, if there is a run")
    parser.add_argument("--no_progress", action="store_true", help="do not tell how far it is")
    add_process_flags(parser)
    parser.add_argument(
        "--bandwidth_mbps",
        type=float,
        action="append",
        default=[],
        metavar="X",
        help="also tell what a round would take on such a link, in 10⁶ bit/s; repeatable",
    )
    parser.add_argument(
        "--throttle_mbps", type=float, metavar="X", help="wait as if the link had this speed"
    )
    parser.add_argument(
        "--max_wait_s",
        type=float,
        metavar="S",
        help="go on without processes that are S seconds later than the first (default: wait)",
    )


def _train(arguments: argparse.Namespace) -> None:
    links = [Link(mbps) for mbps in arguments.bandwidth_mbps]
    throttle = None if arguments.throttle_mbps is None else Link(arguments.throttle_mbps)
    with joined_as_told(arguments):
        _in_all(arguments, links, throttle)


def _in_all(arguments: argparse.Namespace, links: list[Link], throttle: Link | None) -> None:
    """What each process does."""
    with together():
        load_config_of(arguments)
        problem = meta_test.meta_test_problem()
        method = _method(arguments, problem)
    first = jax.process_index() == 0
    if first:
        print(
            f"{method.label} trains {problem.task_family.name}: {problem.num_workers} workers "
            f"on {jax.device_count()} devices of {jax.process_count()} processes",
            flush=True,
        )
    summary = train(
        problem,
        method,
        arguments.folder,
        seed=arguments.seed,
        resume=arguments.resume,
        progress=not arguments.no_progress,
        throttle=throttle,
        max_wait_s=arguments.max_wait_s,
        data_is_for_this=True,
    )
    if first:
        print("\n".join(_told(summary, links)), flush=True)


def _method(arguments: argparse.Namespace, problem: meta_test.Problem) -> Method:
    if arguments.theta is not None:
        return method_of_theta(arguments.theta, problem)
    if arguments.tuned is not None:
        return method_of_sweep(arguments.tuned, problem, [arguments.seed])
    return method_of_spec(arguments.optimizer)


def _told(summary: TrainSummary, links: list[Link]) -> list[str]:
    rounds = max(1, summary.rounds)
    lines = [f"final training loss: {summary.final_train_loss:.4f}"]
    lines += [f"{name}: {value:.4f}" for name, value in summary.evaluation.items()]
    lines += [
        f"a round: {1000 * summary.seconds_working / rounds:.1f} ms of local steps, "
        f"{1000 * summary.seconds_merging / rounds:.1f} ms of merging and waiting; a worker sends "
        f"{summary.bytes_sent:,} and receives {summary.bytes_received:,} bytes"
    ]
    lines += [
        f"at {link.mbps:g} Mbit/s a round would take "
        f"{1000 * summary.seconds_per_round(link):.1f} ms"
        for link in links
    ]
    return lines
