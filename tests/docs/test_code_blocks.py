"""The documentation stays true: every code block of every page runs, in the order of the page.

Blocks by what stands behind their fence: python runs, or is written to the file of its title; gin
is written likewise; none is commands, of which `comm-lopt` runs at a small size, and of the
others what they name exists; text is not run.
"""

import pathlib
import re
import shlex
import sys

import pytest
from small_commands import at_small_size

from comm_lopt import cli
from comm_lopt.report import page as report_page

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))

if not PAGES:
    pytest.skip("there is no documentation beside an installed package", allow_module_level=True)

_FENCE = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)


def blocks(text):
    """(kind, title, content) of each; fences of another form are an error."""
    found = _FENCE.findall(text)
    assert 2 * len(found) == len(re.findall(r"^```", text, re.MULTILINE)), "a fence stands open"
    return found


def run(command):
    """A line of a block of commands."""
    words = shlex.split(command)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    elif words[:2] == ["pip", "install"]:
        (extra,) = re.findall(r"^comm-lopt\[(\w+)\]$", words[2])
        assert f'"{extra}"' in (ROOT / "setup.py").read_text("utf-8"), extra
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), words[1]
    elif words[:2] != ["apt-get", "install"]:
        assert words[0] == "comm-lopt", f"{command}: of what is not run, say ```text"
        # What a launch starts, in this process.
        arguments = words[1 + words.index("--") :] if words[1] == "launch" else words[1:]
        assert cli.main(at_small_size(arguments)) == 0, command


@pytest.fixture
def own_modules():
    """Modules that a page writes are imported for that page alone."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(pathlib.Path.cwd())):
            del sys.modules[name]


@pytest.mark.filterwarnings("ignore")  # Upstream's trainer divides by 0, among others.
@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT / "docs")))
def test_every_block_of_the_page_runs(
    page, tmp_path, monkeypatch, ordinary_promotion, small_data_folder, own_modules
):
    monkeypatch.setattr(report_page, "_library", str)
    monkeypatch.setenv("COMM_LOPT_DATA", str(small_data_folder))
    monkeypatch.chdir(tmp_path)
    for kind, title, content in blocks(page.read_text(encoding="utf-8")):
        if title:
            pathlib.Path(title).write_text(content, encoding="utf-8")
        elif kind == "python":
            exec(compile(content, str(page), "exec"), {"__name__": "page"})
        elif kind == "":
            for line in filter(None, content.replace("\\\n", "").splitlines()):
                run(line.partition("  #")[0])
        else:
            assert kind == "text", f"{kind}: there is nothing to do with it"


def test_fence_that_stands_open_is_found():
    with pytest.raises(AssertionError, match="stands open"):
        blocks("```python\nx = 1\n```\n```sh\ny\n")
