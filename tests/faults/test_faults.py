"""The script that puts faults in, on a made-up package, and whether its lists fit the code."""

import json
import pathlib
import re
import subprocess

import pytest
import run as faults

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FAULTS = faults.read_faults()

PACKAGE = {
    "small/__init__.py": "def add(a, b):\n    return a + b\n\ndef twice(x):\n    return 2 * x\n",
    "tests/test_add.py": "import small\n\ndef test_sum():\n    assert small.add(2, 3) == 5\n",
    "tests/test_never.py": "def test_that_fails():\n    assert False\n",
}
LIST = """
[[fault]]
name = "noticed"
file = "small/__init__.py"
old = "a + b"
new = "a - b"
tests = ["tests/test_add.py"]

[[fault]]
name = "not noticed"
file = "small/__init__.py"
old = "2 * x"
new = "3 * x"
tests = ["tests/test_add.py"]

[[fault]]
name = "gone"
file = "small/__init__.py"
old = "a * b"
new = "a + b"
tests = ["tests/test_add.py"]

[[fault]]
name = "noticed by what always fails"
file = "small/__init__.py"
old = "2 * x"
new = "4 * x"
tests = ["tests/test_never.py"]
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with the package, and the list of faults beside it."""
    # Plugins that happen to be installed take longer to import than these tests to run.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    root = tmp_path / "repository"
    for name, text in PACKAGE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    (tmp_path / "list.toml").write_text(LIST, encoding="utf-8")
    return ["--root", str(root), "--faults", str(tmp_path), "--out", str(tmp_path / "out")]


def test_what_is_noticed_is_told_from_what_is_not_and_from_what_says_nothing(repository, tmp_path):
    assert faults.main([*repository, "--named_only"]) == 1
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [(one["fault"]["name"], one["status"], one["told"]) for one in found] == [
        ("noticed", "caught", "tests/test_add.py::test_sum"),
        ("not noticed", "survived", ""),
        ("gone", "invalid", "small/__init__.py has the old text 0 times"),
        (
            "noticed by what always fails",
            "invalid",
            "tests/test_never.py::test_that_fails fails without it",
        ),
    ]
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert table.startswith("1 of 4 faults are noticed.")
    assert "| noticed | `__init__.py` | `test_sum` |" in table
    assert "| not noticed | `__init__.py` | **survived**  |" in table
    # The repository itself is as it was.
    for name, text in PACKAGE.items():
        assert (tmp_path / "repository" / name).read_text(encoding="utf-8") == text


def test_fault_that_its_own_tests_miss_is_shown_to_all_others(repository, tmp_path):
    missing = tmp_path / "repository" / "tests" / "test_twice.py"
    missing.write_text("import small\n\ndef test_two():\n    assert small.twice(2) == 4\n")
    (tmp_path / "repository" / "tests" / "test_never.py").unlink()
    subprocess.run(["git", "-C", str(tmp_path / "repository"), "add", "."], check=True)
    assert faults.main([*repository, "--only", "not noticed"]) == 0
    (found,) = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert (found["status"], found["told"]) == ("caught", "tests/test_twice.py::test_two")


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_fault_of_the_list_can_be_put_in(fault, tmp_path):
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    assert text.count(fault.old) == 1, "the code has changed: change the fault's text as well"
    compile(text.replace(fault.old, fault.new), fault.file, "exec")
    for test in fault.tests:
        file, _, name = test.partition("::")
        found = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).is_file() else ""
        assert re.search(rf"^def {name}\b" if name else "", found, re.MULTILINE), test
