"""Theta as data: a safetensors file with a JSON header. No pickle, nothing is executed."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from comm_lopt.checks import nearest_name
from comm_lopt.optimizers.ada_features import AdaFeatures
from comm_lopt.optimizers.learned import GlobalLearnedOptimizer
from comm_lopt.optimizers.momentum_features import MomentumFeatures
from comm_lopt.optimizers.registry import OPTIMIZERS

__all__ = ["FILE_NAME", "ThetaError", "check_theta", "load_theta", "save_theta"]

PyTree = Any

FILE_NAME = "theta.safetensors"
_HEADER_KEY = "comm_lopt"
_FORMAT_VERSION = 1


class ThetaError(ValueError):
    """A theta that cannot be read, or does not fit the optimizer it is given to."""


def save_theta(
    folder: str | os.PathLike[str],
    learned_opt: GlobalLearnedOptimizer,
    theta: PyTree,
    trained_on: Mapping[str, Any],
) -> pathlib.Path:
    """Writes theta with a header that says what it is. The file is whole or not there.

    Args:
      folder: made if missing; a theta in it is replaced.
      learned_opt: the optimizer that theta belongs to.
      theta: its meta-parameters.
      trained_on: what a user of it should know: task, K, H, local learning rate, meta-steps.

    Returns:
      The file's path.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        "format_version": _FORMAT_VERSION,
        "class": learned_opt.name,
        "hparams": learned_opt.hparams(),
        "trained_on": dict(trained_on),
    }
    arrays = {path: jax.device_get(leaf) for path, leaf in _leaves(theta).items()}
    temporary = folder / f".{FILE_NAME}.{os.getpid()}"
    save_file(arrays, str(temporary), metadata={_HEADER_KEY: json.dumps(header)})
    path = folder / FILE_NAME
    temporary.replace(path)
    return path


def load_theta(
    path: str | os.PathLike[str], learned_opt: GlobalLearnedOptimizer | None = None
) -> tuple[GlobalLearnedOptimizer, PyTree, dict[str, Any]]:
    """Reads theta, and builds the optimizer that its header describes.

    Args:
      path: the file, or the folder it lies in.
      learned_opt: the optimizer it is meant for; the header's own if None.

    Returns:
      The optimizer, theta, and what the header says about its training.

    Raises:
      FileNotFoundError: no theta there.
      ThetaError: not a theta of ours, of a newer format, or of another class, K or size than
        `learned_opt`.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"no theta at {path}; pass the folder that `comm-lopt meta-train` wrote it to, "
            "its TRAIN_LOG_DIR/theta."
        )
    try:
        with safe_open(str(path), "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(metadata[_HEADER_KEY])
        version, saved_opt = header["format_version"], _optimizer_of(header)
        trained_on = dict(header["trained_on"])
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, ThetaError):
            raise
        raise ThetaError(f"{path} is not a theta of comm_lopt: {error!r}.") from error
    if version != _FORMAT_VERSION:
        raise ThetaError(
            f"{path} has format version {version}, this comm_lopt reads {_FORMAT_VERSION}; "
            "install a newer comm_lopt."
        )
    if learned_opt is not None:
        _check_same(path, saved_opt, learned_opt)
    template = jax.eval_shape(saved_opt.init, jax.random.PRNGKey(0))
    paths = list(_leaves(template))
    if sorted(arrays) != sorted(paths):
        raise ThetaError(
            f"{path} holds the arrays {sorted(arrays)}; a {saved_opt.name} has {sorted(paths)}."
        )
    theta = jax.tree.unflatten(
        jax.tree.structure(template), [jnp.asarray(arrays[p]) for p in paths]
    )
    check_theta(saved_opt, theta)
    return saved_opt, theta, trained_on


def check_theta(learned_opt: GlobalLearnedOptimizer, theta: PyTree) -> None:
    """Raises ThetaError unless every leaf of theta has the shape and dtype it should have."""
    expected = _leaves(jax.eval_shape(learned_opt.init, jax.random.PRNGKey(0)))
    found = _leaves(theta)
    if list(expected) != list(found):
        raise ThetaError(
            f"theta has the leaves {list(found)}; a {learned_opt.name} has {list(expected)}."
        )
    for path, leaf in expected.items():
        if (found[path].shape, found[path].dtype) != (leaf.shape, leaf.dtype):
            raise ThetaError(
                f"theta[{path}] is {found[path].dtype}{list(found[path].shape)}; "
                f"{learned_opt.name} with {learned_opt.hparams()} expects "
                f"{leaf.dtype}{list(leaf.shape)}: use the sizes it was meta-trained with."
            )


def _leaves(theta: PyTree) -> dict[str, Any]:
    paths = jax.tree_util.tree_leaves_with_path(theta)
    return {"/".join(str(entry.key) for entry in path): leaf for path, leaf in paths}


def _optimizer_of(header: Mapping[str, Any]) -> GlobalLearnedOptimizer:
    name = header["class"]
    if name not in OPTIMIZERS or OPTIMIZERS[name].kind != "learned":
        raise ThetaError(
            f"theta is of the class {name!r}, which is no learned optimizer here; "
            f"{nearest_name(str(name), OPTIMIZERS)}"
        )
    hparams = dict(header["hparams"])
    feature_set = AdaFeatures if name.endswith("A") else MomentumFeatures
    features = feature_set(**hparams.pop("features"))
    return OPTIMIZERS[name].make(features=features, **hparams)


def _check_same(
    path: pathlib.Path, saved: GlobalLearnedOptimizer, wanted: GlobalLearnedOptimizer
) -> None:
    if saved.name != wanted.name:
        raise ThetaError(
            f"{path} is a theta of {saved.name}, not of {wanted.name}; use {saved.name}."
        )
    saved_hparams, wanted_hparams = saved.hparams(), wanted.hparams()
    different = {
        name: (saved_hparams[name], wanted_hparams[name])
        for name in saved_hparams
        if saved_hparams[name] != wanted_hparams[name]
    }
    if different:
        told = ", ".join(f"{n}={a} in the file, {b} wanted" for n, (a, b) in different.items())
        raise ThetaError(
            f"{path} does not fit {wanted.name}: {told}; build the optimizer with the file's."
        )
