"""The command `comm-lopt config`: what would run, without running it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

import gin
import jax

from comm_lopt import gin_state, meta_test, upstream
from comm_lopt.cli.flags import add_config_flags, add_parser, load_config_of
from comm_lopt.hyperparameters import configured
from comm_lopt.meta_train import check_fit, meta_train
from comm_lopt.meta_train.opening import theta_size
from comm_lopt.meta_train.trained_on import trained_on
from comm_lopt.optimizers.learned.rule import GlobalLearnedOptimizer

__all__ = ["add_config"]


def add_config(commands: Any) -> None:
    """Adds the command and its flags."""
    parser = add_parser(
        commands,
        "config",
        _config,
        "print the problem and every setting, defaults included, as a gin file, and run nothing",
    )
    add_config_flags(parser)


def _config(arguments: argparse.Namespace) -> None:
    load_config_of(arguments)
    for line in [*_problem(), *_meta_training()]:
        print(f"# {line}")
    print()
    print(gin.operative_config_str())


def _problem() -> Iterator[str]:
    """What is meta-tested, if gin says it."""
    if not gin.get_bindings(meta_test.meta_test_problem, resolve_references=False):
        return
    told = meta_test.meta_test_problem().describe()
    yield f"problem: {told['task']}, {told['num_parameters']:,} parameters"
    yield (
        f"K = {told['num_workers']} workers, H = {told['num_local_steps']} local steps, "
        f"B = {told['local_batch_size']}, T = {told['num_rounds']} rounds; held out: "
        f"{told['heldout_split']}"
    )


def _meta_training() -> Iterator[str]:
    """What is meta-trained, if gin says it."""
    if "num_meta_steps" not in gin.get_bindings(meta_train, resolve_references=False):
        return
    values = {name: argument.value for name, argument in configured(meta_train).items()}
    upstream.configured_gradient_learner(values["num_meta_steps"])
    estimators = upstream.build_gradient_estimators(
        jax.random.PRNGKey(0), values["num_estimators"], values["task_families"]
    )
    families = [upstream.task_family_of(estimator) for estimator in estimators]
    learned_opt = upstream.learned_opt_of(estimators[0])
    gin_state.note_as_called("meta_train")
    for family in families:
        check_fit(family, learned_opt)
    yield f"theta: {type(learned_opt).__name__}, {theta_size(learned_opt)}"
    if isinstance(learned_opt, GlobalLearnedOptimizer):
        yield f"{learned_opt.name}: {_listed(learned_opt.hparams())}"
    for told in trained_on(families, 0)["families"]:
        yield f"meta-training: {_listed(told)}"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())
