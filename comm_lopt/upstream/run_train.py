"""Upstream's own trainer on gin files of either shape, and what it leaves behind."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import gin
import jax
from learned_optimization import checkpoints, outer_train
from learned_optimization.learned_optimizers.base import LearnedOptimizer
from learned_optimization.outer_trainers.gradient_learner import ParameterCheckpoint

from comm_lopt.upstream._ready import FLAVOUR

__all__ = ["read_params", "run_train"]

_PREFIX = "params_"


def run_train(train_log_dir: str | os.PathLike[str]) -> None:
    """Runs upstream's `run_train`, its learner and one worker in this process.

    Args:
      train_log_dir: made if missing; gets `params_*` and `checkpoint_*` (as often as gin's
        `periodically_save_checkpoint` says: every ten minutes), events and config.gin.

    Raises:
      ValueError: gin does not say what to train.
    """
    if not gin.get_bindings("run_train", resolve_references=False):
        raise ValueError(
            "the configuration does not set run_train.lopt; add meta_training.gin, or include "
            "'outer_training.gin'."
        )
    # Orbax, by which Flax saves, takes no relative path.
    folder = pathlib.Path(train_log_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    outer_train.run_train(train_log_dir=str(folder))
    if FLAVOUR == "main":
        # It saves in a thread, the only one of its pool, and returns before that has ended.
        checkpoints._checkpoint_thread_pool.submit(lambda: None).result()


def read_params(
    train_log_dir: str | os.PathLike[str], learned_opt: LearnedOptimizer
) -> tuple[Any, int]:
    """Reads theta out of the newest `params_*`.

    Args:
      train_log_dir: of `run_train`.
      learned_opt: the learned optimizer that it trained.

    Returns:
      Theta, and the meta-steps behind it.

    Raises:
      FileNotFoundError: there is no `params_*`.
      ValueError: it is damaged, or of another learned optimizer.
    """
    folder = str(pathlib.Path(train_log_dir).resolve())
    if not checkpoints.has_checkpoint(folder, _PREFIX):
        raise FileNotFoundError(
            f"no {_PREFIX}* in {train_log_dir}; pass the --train_log_dir of upstream's run_train."
        )
    empty = ParameterCheckpoint(learned_opt.init(jax.random.PRNGKey(0)), "", 0)
    try:
        restored = checkpoints.restore_checkpoint(folder, empty, _PREFIX)
    # What a file of another kind makes msgpack and Flax raise is an open list.
    except Exception as error:
        raise ValueError(
            f"the {_PREFIX}* of {train_log_dir} is no theta of {type(learned_opt).__name__} "
            f"({error!r:.300}); give the gin files that it was trained with."
        ) from error
    return restored.params, int(restored.step)
