"""Thetas on the Hugging Face hub: `push` publishes one, and `hf://OWNER/NAME` names one."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from comm_lopt.damage import damage_as
from comm_lopt.pretrained.folders import (
    CARD_FILE,
    CONFIG_FILE,
    HUB_CONFIG_FILE,
    HUB_SCHEME,
    README_FILE,
)
from comm_lopt.pretrained.loading import load
from comm_lopt.pretrained.model_card import readme, readme_without_card
from comm_lopt.theta import FILE_NAME, ThetaError, theta_file, theta_header

__all__ = ["pulled", "push"]

_FILES = (FILE_NAME, HUB_CONFIG_FILE, CARD_FILE, CONFIG_FILE, README_FILE)
# Far from any real file: they bound what a hostile repository can make its reader download.
_MAX_BYTES = 1 << 26
_TIMEOUT_SECONDS = 30.0


def push(name_or_path: str | os.PathLike[str], repo_id: str, private: bool = False) -> str:
    """Publishes a theta as one commit on the hub, and makes the repository if need be.

    The commit has theta.safetensors; config.json, which is theta's header and the SHA-256 of its
    bytes; README.md, with the licence and tags in front; card.json and config.gin where they lie
    beside theta. Who pushes is known by HF_TOKEN or `hf auth login`.

    Args:
      name_or_path: as for `load`.
      repo_id: "OWNER/NAME".
      private: of a repository that is made: whether others cannot see it.

    Returns:
      Its name for `load`, with the commit: "hf://OWNER/NAME@COMMIT".

    Raises:
      ImportError: huggingface_hub is not installed.
      ValueError: no such theta, a name that the hub refuses, or a licence that it does not know.
      ThetaError: theta or its card cannot be used.
      ConnectionError: the hub does not answer, or refuses.
    """
    hub = _library()
    _check_repo_id(repo_id)
    found, name = load(name_or_path), f"{HUB_SCHEME}{repo_id}"
    path, header = pathlib.Path(found.file["path"]), theta_header(found.file["path"])
    config = {"library_name": "comm-lopt", **header, "sha256": found.file["sha256"]}
    contents: dict[str, bytes] = {
        FILE_NAME: path.read_bytes(),
        HUB_CONFIG_FILE: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
    }
    if found.card is not None:
        contents[README_FILE] = readme(found.card, name).encode()
        beside = [path.with_name(file) for file in (CARD_FILE, CONFIG_FILE)]
        contents |= {file.name: file.read_bytes() for file in beside if file.exists()}
    else:
        contents[README_FILE] = readme_without_card(header, config["sha256"], name).encode()
    with _asking(name):
        hub.HfApi().create_repo(repo_id, private=private, exist_ok=True)
        commit = hub.HfApi().create_commit(
            repo_id,
            [hub.CommitOperationAdd(file, content) for file, content in contents.items()],
            commit_message=f"{header['class']} of comm_lopt",
        )
    return f"{name}@{commit.oid}"


def pulled(name: str) -> pathlib.Path:
    """The folder of a theta of the hub, in huggingface_hub's cache; downloaded if it is not there.

    Args:
      name: "hf://OWNER/NAME", or "hf://OWNER/NAME@REVISION" with a branch, tag or commit.

    Raises:
      ImportError: huggingface_hub is not installed.
      ValueError: no such repository or revision.
      ThetaError: no theta of ours is there, or it is not the one that its config.json is of.
      ConnectionError: the hub does not answer, or refuses.
    """
    hub = _library()
    repo_id, at, revision = name.removeprefix(HUB_SCHEME).partition("@")
    _check_repo_id(repo_id)
    if at and not revision:
        raise ValueError(f"{name} names no revision behind the @; write it there.")
    with _asking(name):
        info = hub.HfApi().model_info(
            repo_id, revision=revision or None, files_metadata=True, timeout=_TIMEOUT_SECONDS
        )
        sizes = {file.rfilename: file.size for file in info.siblings or ()}
        for file in (FILE_NAME, HUB_CONFIG_FILE):
            if file not in sizes:
                raise ThetaError(
                    f"{name} has no {file}, but {sorted(sizes)!r:.300}; it is no theta of "
                    "comm_lopt, which `comm-lopt pretrained NAME --push` publishes."
                )
        wanted = [file for file in _FILES if file in sizes]
        for file in wanted:
            if sizes[file] is None or sizes[file] > _MAX_BYTES:
                raise ThetaError(
                    f"{file} of {name} has {sizes[file]} bytes; it may have {_MAX_BYTES}."
                )
        # Of one commit, even if somebody pushes at the same time.
        paths = [hub.HfApi().hf_hub_download(repo_id, file, revision=info.sha) for file in wanted]
    folder = pathlib.Path(paths[0]).parent
    _check_digest(name, folder)
    return folder


def _check_repo_id(repo_id: str) -> None:
    owner, _, name = repo_id.partition("/")
    if not (owner and name) or "/" in name:
        raise ValueError(f"{repo_id!r:.200} is no repository of the hub; write OWNER/NAME.")


def _check_digest(name: str, folder: pathlib.Path) -> None:
    path = folder / HUB_CONFIG_FILE
    with damage_as(ThetaError, f"{path} of {name} is not of a theta", "push the theta anew."):
        told = json.loads(path.read_text(encoding="utf-8"))["sha256"]
    found = theta_file(folder)["sha256"]
    if found != told:
        raise ThetaError(
            f"{FILE_NAME} of {name} has the SHA-256 {found}, and its {HUB_CONFIG_FILE} says "
            f"{told!r:.100}: one of them was replaced; push the theta anew, or take another "
            "revision."
        )


def _library() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "the hub needs the package huggingface_hub, which comes with "
            'pip install "comm-lopt[hub]".'
        ) from error
    library: Any = huggingface_hub
    return library


@contextlib.contextmanager
def _asking(name: str) -> Iterator[None]:
    """Errors of the hub as those of Python, in a sentence."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ValueError(
            f"{name}: the hub has no such repository or revision, or it is private and you are "
            "not logged in; look at the spelling, or run `hf auth login`."
        ) from error
    # Of httpx, where a connection fails, as well as of the hub.
    except (errors.HTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        told = next(iter(str(error).splitlines()), "")
        raise ConnectionError(
            f"{name}: the hub did not do it ({type(error).__name__}: {told:.300}); if it asks who "
            "you are, run `hf auth login`, otherwise look at the network and HF_ENDPOINT."
        ) from error
