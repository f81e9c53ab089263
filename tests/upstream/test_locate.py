"""Tests of how upstream is found and told apart."""

import importlib.util
import json
import pathlib
import sys
import types

import pytest

from comm_lopt.upstream import locate as locate_module
from comm_lopt.upstream.locate import ENVIRONMENT_VARIABLE, locate

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def make_checkout(root: pathlib.Path, *, main: bool) -> pathlib.Path:
    outer_trainers = root / "learned_optimization" / "outer_trainers"
    outer_trainers.mkdir(parents=True)
    (root / "learned_optimization" / "__init__.py").touch()
    if main:
        (outer_trainers / "truncated_step.py").touch()
    return root


@pytest.fixture
def nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has not imported upstream yet; `sys.path` is put back afterwards."""
    monkeypatch.delitem(sys.modules, "learned_optimization")
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.usefixtures("nothing_imported")
@pytest.mark.parametrize(("main", "flavour"), [(True, "main"), (False, "released")])
def test_checkout_named_by_environment_wins_and_its_structure_says_its_flavour(
    tmp_path, monkeypatch, main, flavour
):
    make_checkout(tmp_path, main=main)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    found = locate()
    assert found.package_dir == tmp_path / "learned_optimization"
    assert found.flavour == flavour
    assert found.version == flavour
    assert sys.path[0] == str(tmp_path)


@pytest.mark.usefixtures("nothing_imported")
@pytest.mark.parametrize("where", ["loose", "packed", "detached"])
def test_version_of_a_checkout_holds_its_commit(tmp_path, monkeypatch, where):
    git = make_checkout(tmp_path, main=True) / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n" if where != "detached" else COMMIT + "\n")
    if where == "loose":
        (git / "refs" / "heads" / "main").write_text(COMMIT + "\n")
    if where == "packed":
        other = "f" * 40
        (git / "packed-refs").write_text(
            f"# pack-refs with: peeled\n{other} refs/heads/other\n{COMMIT} refs/heads/main\n"
        )
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    assert locate().version == "main-0123456"


@pytest.mark.usefixtures("nothing_imported")
def test_version_of_an_install_from_git_holds_its_commit(tmp_path, monkeypatch):
    make_checkout(tmp_path, main=True)
    record = json.dumps({"url": "...", "vcs_info": {"vcs": "git", "commit_id": COMMIT}})
    installed = types.SimpleNamespace(
        version="0.0.1",
        locate_file=lambda name: tmp_path / name,
        read_text=lambda name: record if name == "direct_url.json" else None,
    )
    monkeypatch.setattr(locate_module.importlib.metadata, "distribution", lambda _: installed)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    assert locate().version == "main-0123456"


@pytest.mark.usefixtures("nothing_imported")
def test_version_of_a_release_comes_from_its_metadata(tmp_path, monkeypatch):
    make_checkout(tmp_path, main=False)
    installed = types.SimpleNamespace(
        version="0.0.9", locate_file=lambda name: tmp_path / name, read_text=lambda name: None
    )
    monkeypatch.setattr(locate_module.importlib.metadata, "distribution", lambda _: installed)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    assert locate().version == "0.0.9"


def test_folder_without_the_package_is_refused_with_value_rule_and_fix(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    with pytest.raises(ImportError, match="must hold the package learned_optimization") as error:
        locate()
    assert f"{ENVIRONMENT_VARIABLE}={str(tmp_path)!r}" in str(error.value)
    assert "name the root of a checkout" in str(error.value)


def test_checkout_is_refused_once_another_copy_was_imported(tmp_path, monkeypatch):
    make_checkout(tmp_path, main=True)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    before = list(sys.path)
    with pytest.raises(ImportError, match="import comm_lopt before learned_optimization"):
        locate()
    assert sys.path == before


def test_absent_upstream_is_reported_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"pip install --no-deps learned-optimization==0\.0\.1"
    ) as error:
        locate()
    assert "\n" not in str(error.value)
