"""The pinned files hold all that the package asks for, and agree with one another."""

import importlib.metadata
import pathlib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXTRAS = {
    "requirements.txt": (),
    "requirements/dev.txt": ("test", "docs", "hub"),
    "requirements/tfds.txt": ("test", "tfds"),
    "requirements/fuzz.txt": ("fuzz",),
}
PYTHONS = ("3.11", "3.12", "3.13")

if not (ROOT / "requirements.txt").exists():
    pytest.skip("there are no pinned files beside an installed package", allow_module_level=True)


def pinned(file: str, python: str) -> dict[str, str]:
    """Versions by name, on Linux."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if not line.lstrip().startswith("#")]
    where = {"python_version": python, "python_full_version": f"{python}.1"}
    return {
        canonicalize_name(one.name): str(one.specifier).removeprefix("==")
        for one in found
        if one.marker is None or one.marker.evaluate({**where, "sys_platform": "linux"})
    }


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("file", EXTRAS)
def test_all_that_the_package_asks_for_is_pinned_within_its_bounds(file, python):
    versions = pinned(file, python)
    asked = [Requirement(text) for text in importlib.metadata.requires("comm-lopt") or ()]
    wanted = [
        one
        for one in asked
        if one.marker is None
        or any(one.marker.evaluate({"extra": extra}) for extra in EXTRAS[file])
    ]
    outside = {
        one.name: versions.get(canonicalize_name(one.name))
        for one in wanted
        if versions.get(canonicalize_name(one.name), "") not in one.specifier
    }
    assert len(wanted) > 10 and not outside
    assert versions["learned-optimization"] == "0.0.1"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("file", [name for name in EXTRAS if EXTRAS[name]])
def test_pinned_files_agree(file, python):
    core, more = pinned("requirements.txt", python), pinned(file, python)
    assert {name: more.get(name) for name in core} == core
