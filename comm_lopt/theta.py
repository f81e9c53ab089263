"""Theta as data: a safetensors file with a JSON header. No pickle, nothing is executed."""

from __future__ import annotations

import hashlib
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
from comm_lopt.damage import damage_as
from comm_lopt.hyperparameters import configured, plain
from comm_lopt.optimizers.by_name import learned_class
from comm_lopt.optimizers.registry import OPTIMIZERS
from comm_lopt.pretrained.folders import path_of
from comm_lopt.upstream import LearnedOptimizer
from comm_lopt.versions import versions

__all__ = [
    "FILE_NAME",
    "LICENCE",
    "ThetaError",
    "check_theta",
    "load_theta",
    "save_theta",
    "theta_file",
    "theta_header",
]

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
_MAX_FAMILIES = 100


class ThetaError(ValueError):
    """A theta that cannot be read, or does not fit the optimizer it is given to."""


def save_theta(
    folder: str | os.PathLike[str],
    learned_opt: LearnedOptimizer,
    theta: PyTree,
    trained_on: Mapping[str, Any],
    licence: str = LICENCE,
    hparams: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes theta with a header that says what it is. The file is whole or not there.

    Args:
      folder: made if missing; a theta in it is replaced.
      learned_opt: the optimizer that theta belongs to: of the registry, or of any class that is
        registered with gin under its own name.
      theta: its meta-parameters, a tree as from its `init`.
      trained_on: what a user of it should know: task, K, H, local learning rate, meta-steps.
      licence: under which others may use it, by its SPDX name.
      hparams: arguments that build `learned_opt`, of JSON values. If None those of its `hparams`,
        or else those that its class is called with where nothing is given but gin's bindings.

    Returns:
      The file's path.

    Raises:
      ThetaError: theta does not fit `learned_opt`, the header would build another optimizer, or
        `trained_on` could not be read back.
      OSError: the folder cannot be written.
    """
    check_theta(learned_opt, theta)
    name = type(learned_opt).__name__
    arguments = _arguments_of(learned_opt) if hparams is None else dict(hparams)
    header = {
        "format_version": _FORMAT_VERSION,
        "feature_version": _FEATURE_VERSION,
        "class": name,
        "hparams": arguments,
        "trained_on": dict(trained_on),
        "versions": versions(),
        "licence": licence,
    }
    # Safetensors writes what lies in memory, in whatever order.
    arrays = {path: np.asarray(leaf, order="C") for path, leaf in _leaves(theta).items()}
    _check_rebuilds(learned_opt, arguments, arrays)
    text = json.dumps(header, default=_number)
    _checked_trained_on(json.loads(text)["trained_on"])
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    content = save(arrays, metadata={_HEADER_KEY: text})
    with replacing(path) as file:
        file.write_bytes(content)
    return path


def _number(value: Any) -> Any:
    """NumPy's and JAX's numbers, which JSON does not know, as Python's."""
    number = plain(value)
    if number is value:
        raise ThetaError(f"{value!r:.100} is nothing that theta's header can hold; pass a number.")
    return number


def theta_file(path: str | os.PathLike[str]) -> dict[str, str]:
    """Where a theta lies and what is in it: its absolute "path" and the "sha256" of its bytes.

    Raises:
      FileNotFoundError: no theta there.
      ThetaError: a file that is too large for one.
    """
    # Not the target of a link: what lies beside it, such as its card, belongs to the link.
    path = _file_at(path).absolute()
    _check_size(path)
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def theta_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a theta's header says: "class", "hparams", "trained_on", "versions", "licence".

    Raises:
      FileNotFoundError: no theta there.
      ThetaError: the file is not one, or is of another format.
    """
    path = _file_at(path)
    with damage_as(ThetaError, f"{path} is not a theta of comm_lopt", "pass another file."):
        return _read(path)[0]


def load_theta(
    path: str | os.PathLike[str], learned_opt: LearnedOptimizer | None = None
) -> tuple[LearnedOptimizer, PyTree, dict[str, Any]]:
    """Reads theta, and builds the optimizer that its header describes.

    Nothing in the file is imported or executed: the header names a class of the registry, or one
    that is imported and registered with gin already, and its numbers.

    Args:
      path: the file, the folder it lies in, or the name of one that ships.
      learned_opt: the optimizer it is meant for; the header's own if None.

    Returns:
      The optimizer, theta (a tree), and what the header says about its training.

    Raises:
      FileNotFoundError: no theta there.
      ThetaError: not a theta of ours, damaged, of a newer format or other features, or of
        another class, K or size than `learned_opt`. What is in a file can raise nothing else.
    """
    path = _file_at(path)
    with damage_as(ThetaError, f"{path} is not a theta of comm_lopt", "pass another file."):
        header, arrays = _read(path)
        saved_opt = _optimizer_of(header, len(arrays))
        trained_on = _checked_trained_on(header["trained_on"])
        template = jax.eval_shape(saved_opt.init, jax.random.PRNGKey(0))
        _check_leaves(str(path), f"{header['class']} with {header['hparams']}", template, arrays)
    if learned_opt is not None:
        _check_same(path, saved_opt, learned_opt)
    leaves = [jnp.asarray(arrays[name]) for name in _leaves(template)]
    return saved_opt, jax.tree.unflatten(jax.tree.structure(template), leaves), trained_on


def check_theta(learned_opt: LearnedOptimizer, theta: PyTree) -> None:
    """Raises ThetaError unless every leaf of theta has the shape and dtype it should have."""
    expected = jax.eval_shape(learned_opt.init, jax.random.PRNGKey(0))
    described: Any = getattr(learned_opt, "hparams", dict)()
    _check_leaves(
        "theta", f"{type(learned_opt).__name__} with {described}", expected, _leaves(theta)
    )


def _check_leaves(where: str, described: str, template: PyTree, found: Mapping[str, Any]) -> None:
    expected = _leaves(template)
    missing, unknown = sorted(expected.keys() - found), sorted(found.keys() - expected)
    if missing or unknown:
        raise ThetaError(
            f"{where} holds the arrays {sorted(found)[:20]}; a {described:.300} has "
            f"{sorted(expected)[:20]}: missing {missing[:20]}, unknown {unknown[:20]}."
        )
    for path, leaf in expected.items():
        if (found[path].shape, found[path].dtype) != (leaf.shape, leaf.dtype):
            raise ThetaError(
                f"{where}[{path}] is {found[path].dtype}{list(found[path].shape)}; "
                f"{described:.300} expects {leaf.dtype}{list(leaf.shape)}: use the sizes it was "
                "meta-trained with."
            )
        if not np.isfinite(found[path]).all():
            raise ThetaError(f"{where}[{path}] has values that are not finite; meta-train anew.")


def _arguments_of(learned_opt: LearnedOptimizer) -> dict[str, Any]:
    """Arguments that build a learned optimizer, as JSON values, as far as they can be known."""
    if hasattr(learned_opt, "hparams"):
        return dict(learned_opt.hparams())
    arguments = {name: hparam.value for name, hparam in configured(type(learned_opt)).items()}
    return {name: value for name, value in arguments.items() if _is_json(value)}


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _check_rebuilds(
    learned_opt: LearnedOptimizer, arguments: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Raises ThetaError unless a header with these arguments builds the optimizer again."""
    name = type(learned_opt).__name__
    fix = "pass save_theta(..., hparams={...}) with the arguments that it was built with."
    header = json.loads(json.dumps({"class": name, "hparams": arguments}, default=_number))
    try:
        rebuilt = _optimizer_of(header, len(arrays))
        _check_leaves("theta", name, jax.eval_shape(rebuilt.init, jax.random.PRNGKey(0)), arrays)
    except Exception as error:
        raise ThetaError(f"{name} cannot be built from {arguments}: {error}; {fix}") from error
    if type(rebuilt) is not type(learned_opt):
        raise ThetaError(f"another class is called {name} as well; give yours another name.")
    new, old = _plain_attributes(rebuilt), _plain_attributes(learned_opt)
    different = {key: value for key, value in old.items() if new.get(key) != value}
    if different:
        raise ThetaError(f"{name} built from {arguments} lacks {different}; {fix}")


def _plain_attributes(learned_opt: LearnedOptimizer) -> dict[str, Any]:
    """Numbers, texts and lists of them that a learned optimizer keeps, but for what may change."""
    values = {name: plain(value) for name, value in vars(learned_opt).items()}
    return {
        name: json.loads(json.dumps(value))
        for name, value in values.items()
        if name not in ("implementation", "absent_workers") and _is_json(value)
    }


def _file_at(path: str | os.PathLike[str]) -> pathlib.Path:
    path = path_of(path)
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"no theta at {path}; pass the folder that `comm-lopt meta-train` wrote it to, "
            "its TRAIN_LOG_DIR/theta, or a name of `comm-lopt pretrained`."
        )
    return path


def _check_size(path: pathlib.Path) -> None:
    size = path.stat().st_size
    if size > _MAX_FILE_BYTES:
        raise ThetaError(f"{path} has {size} bytes; a theta has at most {_MAX_FILE_BYTES}.")


def _read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    _check_size(path)
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
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}
    if len(leaves) != len(paths):
        raise ThetaError(f"theta has two arrays of one name among {sorted(leaves)[:20]}.")
    return leaves


def _optimizer_of(header: Mapping[str, Any], num_arrays: int) -> LearnedOptimizer:
    name = header["class"]
    entry = OPTIMIZERS.get(name)
    make: Any = entry.make if entry is not None and entry.is_learned else learned_class(name)
    if make is None:
        raise ThetaError(
            f"theta is of the class {name!r:.100}, which is no learned optimizer here; "
            f"{nearest_name(str(name)[:100], OPTIMIZERS)} Your own is found where its module is "
            "imported (--gin_import) and it is registered with @gin.configurable."
        )
    hparams = dict(header["hparams"])
    # Each layer has two arrays. More of them would keep the reader busy before it can compare.
    if hparams.get("hidden_layers", 0) > num_arrays:
        raise ThetaError(
            f"the header says {hparams['hidden_layers']!r:.50} hidden layers and there are "
            f"{num_arrays} arrays."
        )
    for key, value in hparams.items():
        if isinstance(value, (int, float)) and not math.isfinite(value):
            raise ThetaError(f"the header says {key}={value}; it must be finite.")
    if hasattr(make, "from_hparams"):
        return make.from_hparams(hparams)
    return make(**hparams)


def _checked_trained_on(found: Any) -> dict[str, Any]:
    """What the header says about training, with the types that readers of it count on."""
    if not isinstance(found, dict):
        raise ThetaError(f"trained_on is {found!r:.100}; it must be an object.")
    families = found.get("families", [])
    if not isinstance(families, list) or len(families) > _MAX_FAMILIES:
        raise ThetaError(f"trained_on.families is {families!r:.100}; it must be a list.")
    _check_kinds("trained_on", {key: v for key, v in found.items() if key != "families"})
    for number, family in enumerate(families):
        where = f"trained_on.families[{number}]"
        if not isinstance(family, dict):
            raise ThetaError(f"{where} is {family!r:.100}; it must be an object.")
        rate = family.get("local_learning_rate")
        if isinstance(rate, list):
            if len(rate) != 2 or not all(type(r) in (int, float) and 0 < r < 1e30 for r in rate):
                raise ThetaError(
                    f"{where}.local_learning_rate is {rate!r:.100}; it must be a number or "
                    "[smallest, largest]."
                )
            family = {**family, "local_learning_rate": None}
        _check_kinds(where, family)
    return found


def _check_kinds(where: str, found: Mapping[str, Any]) -> None:
    for key, value in found.items():
        kinds = _TRAINED_ON.get(key, (str, int, float, bool, type(None)))
        number = isinstance(value, (int, float))
        if type(value) not in kinds or (number and not math.isfinite(value)):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise ThetaError(f"{where}.{key:.50} is {value!r:.100}; it must be a {names}.")


_TRAINED_ON: dict[str, tuple[type, ...]] = {
    "task": (str,),
    "meta_steps": (int,),
    "num_workers": (int,),
    "num_local_steps": (int,),
    "local_optimizer": (str, type(None)),
    "local_learning_rate": (int, float, type(None)),
    "local_state_persists": (bool,),
    "started_from": (str,),
}


def _check_same(path: pathlib.Path, saved: LearnedOptimizer, wanted: LearnedOptimizer) -> None:
    name = type(wanted).__name__
    if type(saved) is not type(wanted):
        raise ThetaError(
            f"{path} is a theta of {type(saved).__name__}, not of {name}; use that class."
        )
    told_by = _arguments_of if hasattr(wanted, "hparams") else _plain_attributes
    there, here = told_by(saved), told_by(wanted)
    different = {key: (there[key], here.get(key)) for key in there if there[key] != here.get(key)}
    if different:
        told = ", ".join(f"{n}={a} in the file, {b} wanted" for n, (a, b) in different.items())
        raise ThetaError(
            f"{path} does not fit {name}: {told}; build the optimizer with the file's."
        )
