"""Theta as data: a safetensors file with a JSON header. No pickle, nothing is executed."""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from comm_lopt.atomic import replacing
from comm_lopt.checks import nearest_name
from comm_lopt.optimizers.ada_features import AdaFeatures
from comm_lopt.optimizers.learned import GlobalLearnedOptimizer
from comm_lopt.optimizers.momentum_features import MomentumFeatures
from comm_lopt.optimizers.registry import OPTIMIZERS
from comm_lopt.versions import versions

__all__ = ["FILE_NAME", "LICENCE", "ThetaError", "check_theta", "load_theta", "save_theta"]

PyTree = Any

FILE_NAME = "theta.safetensors"
LICENCE = "Apache-2.0"
_HEADER_KEY = "comm_lopt"
_FORMAT_VERSION = 1
# Counts up when a feature comes to mean something else, so that old weights do not fit it.
_FEATURE_VERSION = 1
# A learned rule has thousands of weights, so these are far from any real theta. They bound
# what a hostile file can make its reader do.
_MAX_FILE_BYTES = 1 << 26
_MAX_ARRAYS = 1000
_MAX_HEADER = 1 << 16


class ThetaError(ValueError):
    """A theta that cannot be read, or does not fit the optimizer it is given to."""


def save_theta(
    folder: str | os.PathLike[str],
    learned_opt: GlobalLearnedOptimizer,
    theta: PyTree,
    trained_on: Mapping[str, Any],
    licence: str = LICENCE,
) -> pathlib.Path:
    """Writes theta with a header that says what it is. The file is whole or not there.

    Args:
      folder: made if missing; a theta in it is replaced.
      learned_opt: the optimizer that theta belongs to.
      theta: its meta-parameters.
      trained_on: what a user of it should know: task, K, H, local learning rate, meta-steps.
      licence: under which others may use it, by its SPDX name.

    Returns:
      The file's path.

    Raises:
      ThetaError: theta does not fit `learned_opt`.
      OSError: the folder cannot be written.
    """
    check_theta(learned_opt, theta)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        "format_version": _FORMAT_VERSION,
        "feature_version": _FEATURE_VERSION,
        "class": learned_opt.name,
        "hparams": learned_opt.hparams(),
        "trained_on": dict(trained_on),
        "versions": versions(),
        "licence": licence,
    }
    arrays = {path: np.asarray(leaf) for path, leaf in _leaves(theta).items()}
    path = folder / FILE_NAME
    content = save(arrays, metadata={_HEADER_KEY: json.dumps(header)})
    with replacing(path) as file:
        file.write_bytes(content)
    return path


def load_theta(
    path: str | os.PathLike[str], learned_opt: GlobalLearnedOptimizer | None = None
) -> tuple[GlobalLearnedOptimizer, PyTree, dict[str, Any]]:
    """Reads theta, and builds the optimizer that its header describes.

    Nothing in the file is executed: the header names a class of the registry and its numbers.

    Args:
      path: the file, or the folder it lies in.
      learned_opt: the optimizer it is meant for; the header's own if None.

    Returns:
      The optimizer, theta, and what the header says about its training.

    Raises:
      FileNotFoundError: no theta there.
      ThetaError: not a theta of ours, damaged, of a newer format or other features, or of
        another class, K or size than `learned_opt`. A file can raise nothing else.
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
        header, arrays = _read(path)
        saved_opt = _optimizer_of(header, len(arrays))
        trained_on = _checked_trained_on(header["trained_on"])
        template = jax.eval_shape(saved_opt.init, jax.random.PRNGKey(0))
        _check_leaves(str(path), saved_opt, _leaves(template), arrays)
    except ThetaError:
        raise
    # What a hostile header makes safetensors, JSON and JAX raise is an open list.
    except Exception as error:
        raise ThetaError(f"{path} is not a theta of comm_lopt: {error!r:.300}.") from error
    if learned_opt is not None:
        _check_same(path, saved_opt, learned_opt)
    leaves = [jnp.asarray(arrays[name]) for name in _leaves(template)]
    return saved_opt, jax.tree.unflatten(jax.tree.structure(template), leaves), trained_on


def check_theta(learned_opt: GlobalLearnedOptimizer, theta: PyTree) -> None:
    """Raises ThetaError unless every leaf of theta has the shape and dtype it should have."""
    expected = jax.eval_shape(learned_opt.init, jax.random.PRNGKey(0))
    _check_leaves("theta", learned_opt, _leaves(expected), _leaves(theta))


def _check_leaves(
    where: str,
    learned_opt: GlobalLearnedOptimizer,
    expected: Mapping[str, Any],
    found: Mapping[str, Any],
) -> None:
    missing, unknown = sorted(expected.keys() - found), sorted(found.keys() - expected)
    if missing or unknown:
        raise ThetaError(
            f"{where} holds the arrays {sorted(found)[:20]}; a {learned_opt.name} has "
            f"{sorted(expected)[:20]}: missing {missing[:20]}, unknown {unknown[:20]}."
        )
    for path, leaf in expected.items():
        if (found[path].shape, found[path].dtype) != (leaf.shape, leaf.dtype):
            raise ThetaError(
                f"{where}[{path}] is {found[path].dtype}{list(found[path].shape)}; "
                f"{learned_opt.name} with {learned_opt.hparams()} expects "
                f"{leaf.dtype}{list(leaf.shape)}: use the sizes it was meta-trained with."
            )


def _read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    size = path.stat().st_size
    if size > _MAX_FILE_BYTES:
        raise ThetaError(f"{path} has {size} bytes; a theta has at most {_MAX_FILE_BYTES}.")
    with safe_open(str(path), "numpy") as file:
        metadata, names = file.metadata() or {}, list(file.keys())
        text = metadata[_HEADER_KEY]
        if len(names) > _MAX_ARRAYS or len(text) > _MAX_HEADER:
            raise ThetaError(
                f"{path} has {len(names)} arrays and a header of {len(text)} characters; a theta "
                f"has at most {_MAX_ARRAYS} and {_MAX_HEADER}."
            )
        header = json.loads(text)
        # Before all else, for a newer format may differ in all else.
        _check_version(path, "format", header["format_version"], _FORMAT_VERSION)
        _check_version(path, "feature", header["feature_version"], _FEATURE_VERSION)
        return header, {name: file.get_tensor(name) for name in names}


def _check_version(path: pathlib.Path, what: str, found: Any, known: int) -> None:
    if type(found) is not int or found != known:
        fix = (
            "install a newer comm_lopt" if type(found) is int and found > known else "save it anew"
        )
        raise ThetaError(
            f"{path} has {what} version {found!r:.50}, this comm_lopt reads {known}; {fix}."
        )


def _leaves(theta: PyTree) -> dict[str, Any]:
    paths = jax.tree_util.tree_leaves_with_path(theta)
    return {"/".join(str(entry.key) for entry in path): leaf for path, leaf in paths}


def _optimizer_of(header: Mapping[str, Any], num_arrays: int) -> GlobalLearnedOptimizer:
    name = header["class"]
    if name not in OPTIMIZERS or OPTIMIZERS[name].kind != "learned":
        raise ThetaError(
            f"theta is of the class {name!r:.100}, which is no learned optimizer here; "
            f"{nearest_name(str(name)[:100], OPTIMIZERS)}"
        )
    hparams = dict(header["hparams"])
    # Each layer has two arrays. More of them would keep the reader busy before it can compare.
    if hparams["hidden_layers"] > num_arrays:
        raise ThetaError(
            f"the header says {hparams['hidden_layers']!r:.50} hidden layers and there are "
            f"{num_arrays} arrays."
        )
    for key in ("step_multiplier", "exponent_multiplier"):
        if not math.isfinite(hparams[key]):
            raise ThetaError(f"the header says {key}={hparams[key]}; it must be finite.")
    feature_set = AdaFeatures if name.endswith("A") else MomentumFeatures
    features = feature_set(**hparams.pop("features"))
    return OPTIMIZERS[name].make(features=features, **hparams)


def _checked_trained_on(found: Any) -> dict[str, Any]:
    """What the header says about training, with the types that readers of it count on."""
    if not isinstance(found, dict):
        raise ThetaError(f"trained_on is {found!r:.100}; it must be an object.")
    for key, value in found.items():
        kinds = _TRAINED_ON.get(key, (str, int, float, bool, type(None)))
        number = isinstance(value, (int, float))
        if type(value) not in kinds or (number and not math.isfinite(value)):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise ThetaError(f"trained_on.{key:.50} is {value!r:.100}; it must be a {names}.")
    return found


_TRAINED_ON: dict[str, tuple[type, ...]] = {
    "task": (str,),
    "meta_steps": (int,),
    "num_workers": (int,),
    "num_local_steps": (int,),
    "local_learning_rate": (int, float, type(None)),
}


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
