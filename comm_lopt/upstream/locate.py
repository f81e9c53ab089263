"""Finds `learned_optimization` and says which of its two shapes it has.

The shape is read from the package's structure and not from its version: the main branch still
calls itself 0.0.1, and only there does `outer_trainers` hold a `truncated_step` module.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import sys
from typing import Literal

__all__ = ["ENVIRONMENT_VARIABLE", "Flavour", "Upstream", "locate"]

ENVIRONMENT_VARIABLE = "COMM_LOPT_UPSTREAM"
"""Environment variable that may name a checkout of upstream's main branch."""

Flavour = Literal["released", "main"]

_PACKAGE = "learned_optimization"
_DISTRIBUTION = "learned-optimization"


@dataclasses.dataclass(frozen=True)
class Upstream:
    """The `learned_optimization` that this process uses.

    Attributes:
      package_dir: folder of the package.
      flavour: "released" for 0.0.1, "main" for the main branch.
      version: "0.0.1", or "main-1234567" where the commit is known, or "main".
    """

    package_dir: pathlib.Path
    flavour: Flavour
    version: str


def locate() -> Upstream:
    """Makes `learned_optimization` importable and describes it; imports none of its modules.

    Where the environment variable `COMM_LOPT_UPSTREAM` names a checkout, that checkout goes to
    the front of `sys.path`; otherwise the installed package is used.

    Raises:
      ImportError: there is no `learned_optimization`, or the checkout that was asked for holds
        none, or another copy than the one asked for has been imported already.
    """
    checkout = os.environ.get(ENVIRONMENT_VARIABLE)
    if checkout:
        _put_first(checkout)
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"{_PACKAGE} is not installed: pip install --no-deps {_DISTRIBUTION}==0.0.1"
        )
    package_dir = pathlib.Path(next(iter(spec.submodule_search_locations))).resolve()
    flavour: Flavour = (
        "main" if (package_dir / "outer_trainers" / "truncated_step.py").is_file() else "released"
    )
    return Upstream(package_dir, flavour, _version(package_dir, flavour))


def _put_first(checkout: str) -> None:
    folder = pathlib.Path(checkout).expanduser().resolve()
    wanted = folder / _PACKAGE
    if not (wanted / "__init__.py").is_file():
        raise ImportError(
            f"{ENVIRONMENT_VARIABLE}={checkout!r}: the folder must hold the package {_PACKAGE}, "
            f"and {wanted / '__init__.py'} does not exist; name the root of a checkout of "
            "upstream's main branch, or unset the variable to use the installed package."
        )
    loaded = sys.modules.get(_PACKAGE)
    if loaded is not None:
        loaded_dir = pathlib.Path(next(iter(loaded.__path__))).resolve()
        if loaded_dir != wanted:
            raise ImportError(
                f"{ENVIRONMENT_VARIABLE}={checkout!r}: {_PACKAGE} has to come from there, but it "
                f"was imported from {loaded_dir} already; import comm_lopt before {_PACKAGE}."
            )
    if str(folder) not in sys.path[:1]:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()


def _version(package_dir: pathlib.Path, flavour: Flavour) -> str:
    distribution = _distribution_at(package_dir)
    if flavour == "released" and distribution is not None:
        return distribution.version
    commit = _commit_of_checkout(package_dir.parent) or _commit_of_install(distribution)
    return f"{flavour}-{commit[:7]}" if commit else flavour


def _distribution_at(package_dir: pathlib.Path) -> importlib.metadata.Distribution | None:
    """The installed distribution, if it is what `package_dir` belongs to.

    With a checkout at the front of `sys.path`, another version may be installed as well.
    """
    try:
        distribution = importlib.metadata.distribution(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None
    installed_dir = pathlib.Path(str(distribution.locate_file(_PACKAGE))).resolve()
    return distribution if installed_dir == package_dir else None


def _commit_of_checkout(root: pathlib.Path) -> str | None:
    """Reads the commit out of `.git`, without running git, which may not be installed."""
    git = root / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        reference = head.removeprefix("ref: ")
        if (git / reference).is_file():
            return (git / reference).read_text().strip()
        for line in (git / "packed-refs").read_text().splitlines():
            commit, _, name = line.partition(" ")
            if name == reference:
                return commit
    except OSError:
        pass
    return None


def _commit_of_install(distribution: importlib.metadata.Distribution | None) -> str | None:
    """The commit that pip wrote down when it installed straight from a git repository."""
    record = distribution.read_text("direct_url.json") if distribution is not None else None
    return json.loads(record).get("vcs_info", {}).get("commit_id") if record else None
