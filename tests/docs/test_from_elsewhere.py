"""The page for people who come from elsewhere names what there is here."""

import pathlib
import re

import pytest

from comm_lopt import OPTIMIZERS, TASKS

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "from_elsewhere.md"

if not PAGE.exists():
    pytest.skip("there are no documents beside an installed package", allow_module_level=True)

# What stands for something of the reader's.
OTHERS = {"DIR", "FILE", "NAME", "OWNER", "X", "S", "T", "hf"}


def tables():
    """The rows of each section's table by the section's name: lists of cells."""
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        lines = [line for line in section.splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        yield section.splitlines()[0], section, rows


def words_of_the_package():
    files = [*(ROOT / "comm_lopt").rglob("*.py"), *(ROOT / "gin").rglob("*.gin")]
    text = " ".join(file.read_text(encoding="utf-8") for file in files)
    return {*re.findall(r"\w+", text), *OPTIMIZERS, *TASKS}


def test_every_project_has_its_table_and_says_what_was_read():
    found = {name: (section, rows) for name, section, rows in tables()}
    assert list(found) == ["learned_aggregation", "PyLO", "DiLoCo in MaxText", "torchft"]
    for section, rows in found.values():
        assert rows[0] == ["there", "here", "the same", "different; where to look"]
        assert len(rows) > 10 and {len(row) for row in rows} == {4}
        assert re.search(r"Read: `\S+/\S+` at\s[0-9a-f]{7}\s\(\w+\s20\d\d\)", section)


def test_what_is_named_here_is_here():
    known = words_of_the_package()
    for project, _, rows in tables():
        for _, here, _, different in rows[2:]:
            _, see, where = different.rpartition("see ")
            for span in re.findall(r"`([^`]+)`", here + where if see else here):
                if "/" in span and "://" not in span and "." in span:
                    there = [(ROOT / start / span).exists() for start in ("", "comm_lopt")]
                    assert any(there), (project, span)
                    continue
                named = set(re.findall(r"[A-Za-z]\w+", span)) - OTHERS
                missing = named - known - {"comm", "lopt"}
                assert not missing, (project, span, missing)
