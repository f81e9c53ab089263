"""Theta of upstream's own trainer as a theta of comm_lopt."""

from __future__ import annotations

import os
import pathlib

import jax

from comm_lopt import upstream
from comm_lopt.meta_train.trained_on import trained_on
from comm_lopt.theta import save_theta

__all__ = ["convert_params"]


def convert_params(
    train_log_dir: str | os.PathLike[str], folder: str | os.PathLike[str]
) -> pathlib.Path:
    """Writes the newest `params_*` of upstream's `run_train` as theta.safetensors.

    Gin's bindings, which must be those of that run, say of which learned optimizer it is and what
    it was meta-trained on.

    Args:
      train_log_dir: of `run_train`.
      folder: gets the file; made if missing.

    Returns:
      The file's path.

    Raises:
      FileNotFoundError: there is no `params_*`.
      ValueError, ThetaError: it does not fit the learned optimizer.
      OSError: the folder cannot be written.
    """
    (estimator,) = upstream.build_gradient_estimators(jax.random.PRNGKey(0), 1)
    learned_opt = upstream.learned_opt_of(estimator)
    theta, meta_steps = upstream.read_params(train_log_dir, learned_opt)
    told = trained_on([upstream.task_family_of(estimator)], meta_steps)
    return save_theta(folder, learned_opt, theta, told)
