"""The pages of tasks and of methods have all that the registries have."""

import pathlib

import pytest

import comm_lopt

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"

if not DOCS.exists():
    pytest.skip("there is no documentation beside an installed package", allow_module_level=True)


@pytest.mark.parametrize(
    ("page", "registry"), [("methods.md", comm_lopt.OPTIMIZERS), ("tasks.md", comm_lopt.TASKS)]
)
def test_every_entry_of_the_registry_is_in_the_pages_table(page, registry):
    text = (DOCS / page).read_text(encoding="utf-8")
    table = "".join(line for line in text.splitlines() if line.startswith("| `"))
    assert not [name for name in registry if f"`{name}`" not in table]
