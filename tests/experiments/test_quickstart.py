"""The quickstart replaces what it wrote before alone, and ends with 1 where the claim fails."""

import importlib

import pytest
from small_experiment import EXPERIMENTS

if not EXPERIMENTS.exists():
    pytest.skip("there are no experiments beside an installed package", allow_module_level=True)


@pytest.mark.parametrize("linked", [False, True])
def test_only_what_an_earlier_quickstart_wrote_is_removed(tmp_path, monkeypatch, linked):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    folder = tmp_path / "real"
    (folder / "meta_train" / "theta").mkdir(parents=True)
    (folder / "precious").mkdir()
    for name in ("results.json", "table.md", "thesis.tex"):
        (folder / name).touch()
    if linked:
        folder = tmp_path / "link"
        folder.symlink_to("real")
    importlib.import_module("quickstart").remove_earlier(folder)
    assert {path.name for path in folder.iterdir()} == {"precious", "thesis.tex"}
    importlib.import_module("quickstart").remove_earlier(tmp_path / "new")


@pytest.mark.parametrize(
    ("loss", "diverged_seeds", "verdict"), [(1.0, [], 0), (2.0, [], 1), (1.0, [100], 1)]
)
def test_verdict_is_whether_what_ships_beats_tuned_slowmo(
    monkeypatch, loss, diverged_seeds, verdict
):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    quickstart = importlib.import_module("quickstart")
    shipped = {"final_train_loss": loss, "diverged_seeds": diverged_seeds}
    methods = {quickstart.SHIPPED: shipped, "SlowMo": {"final_train_loss": 2.0}}
    assert quickstart.verdict({"methods": methods}) == verdict
