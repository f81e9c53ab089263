"""A page holds the results as they are, and loads nothing; a browser draws it without a word."""

import csv
import json
import re

import browser
import pytest
from small_results import small_entry, small_results

from comm_lopt.cli import main
from comm_lopt.meta_test.collections import TitledResults, read_collection
from comm_lopt.report import page
from comm_lopt.report.results_page import ratio_rows, results_page
from comm_lopt.report.run_page import run_page
from comm_lopt.report.sweep_page import sweep_page

DATA = re.compile(r'<script type="application/json">(.*?)</script>', re.DOTALL)


@pytest.fixture
def results():
    return small_results(
        {
            "SlowMo": small_entry([2.0, None, None], diverged=[2], final=None),
            "cost<$5": small_entry([2.0, 1.5, 0.5]),
            "LOptA": small_entry([2.0, 0.5, 0.25], final=0.25, learned=True, optimizer="LOptA"),
        }
    )


@pytest.fixture
def no_library(monkeypatch):
    monkeypatch.setattr(page, "_library", str)


def test_page_has_every_value_of_the_results(results, no_library):
    made = results_page([TitledResults("a", "A task", results)])
    curves, *bars = map(json.loads, DATA.findall(made))
    rows = curves["data"]["values"]
    assert [row["round"] for row in rows] == [1, 2, 3]
    for k, label in enumerate(["LOptA", "cost<$5", "SlowMo"]):
        entry = results["methods"][label]
        assert [row[f"m{k}"] for row in rows] == entry["train_loss"]
        assert [row[f"s{k}"] for row in rows] == entry["train_loss_std"]
    reached = {row["method"]: row["rounds"] for row in bars[1]["data"]["values"]}
    assert reached == {label: 2 for label in results["methods"]}
    assert "0.25 ± 0.012" in made and "cost&lt;$5" in made and "not finite (1 of 2" in made


def test_page_loads_nothing(results, no_library):
    made = results_page([TitledResults("a", "A task", results)])
    assert "default-src 'none'" in made
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:)?//|@import|url\(", made)


def test_ratio_is_to_the_best_hand_designed_method(results):
    labels, ((_, cells),) = ratio_rows([TitledResults("a", "A task", results)])
    shown = {label: cell.text for label, cell in zip(labels, cells, strict=True)}
    assert shown == {"LOptA": "0.50", "SlowMo": "not finite", "cost<$5": "1.00"}


def test_report_writes_a_page_and_its_tables_of_several_problems(tmp_path, results, no_library):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "results.json").write_text(json.dumps(results), encoding="utf-8")
    several = {"format_version": 1, "problems": {"x": {"title": "X", "results": results}}}
    (tmp_path / "many.json").write_text(json.dumps(several), encoding="utf-8")
    sources = [str(tmp_path / "one"), str(tmp_path / "many.json"), str(tmp_path / "one")]
    assert [one.name for one in read_collection(sources)] == ["one", "x", "one 2"]
    assert main(["report", *sources, "--out", str(tmp_path / "page.html")]) == 0
    assert 'class="heat"' in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "0.50" in (tmp_path / "page.md").read_text(encoding="utf-8")
    with (tmp_path / "page.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 and rows[0]["final_train_loss"] == "0.25"


def test_what_is_no_collection_is_refused(tmp_path, capsys):
    (tmp_path / "x.json").write_text('{"format_version": 1, "problems": {"x": {}}}')
    assert main(["report", str(tmp_path / "x.json"), "--out", str(tmp_path / "p.html")]) == 3
    assert "entry 'title'" in capsys.readouterr().err


def test_without_the_extra_a_command_goes_on_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    page._library.cache_clear()
    assert page.leave_page(tmp_path, page._library) is None
    assert "comm-lopt[report]" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_sweep_marks_its_best_point_and_the_edge(results, no_library):
    grid = [(a, b) for a in (0.1, 1.0) for b in (0.5, 0.9)]
    points = [
        {"hparams": {"a": a, "b": b}, "final_train_loss": a + b, "diverged_seeds": []}
        for a, b in grid
    ]
    sweep = {
        "problem": results["problem"], "label": "SlowMo", "method": results["methods"]["SlowMo"],
        "seeds": [0], "points": points, "best": {"a": 0.1, "b": 0.5}, "on_edge": {"a": 0.1},
    }  # fmt: skip
    made = sweep_page(sweep)
    assert made.count('class="chosen') == 1 and "0.1 (best, at the edge)" in made
    assert "On the edge of the grid: a = 0.1." in made


def test_run_has_its_meta_losses_its_validations_and_what_was_left_out(tmp_path, no_library):
    (tmp_path / "metrics.csv").write_text(
        "meta_step,meta_loss,meta_gradient_norm,skipped,seconds\n"
        "1,2.25,0.5,0,1.0\n2,nan,nan,1,2.0\n3,1.75,0.5,1,3.0\n",
        encoding="utf-8",
    )
    (tmp_path / "validation.csv").write_text(
        "meta_step,mean_train_loss,final_train_loss,seconds\n3,1.5,1.25,0.5\n", encoding="utf-8"
    )
    made = run_page(tmp_path)
    (course,) = map(json.loads, DATA.findall(made))
    layers = [layer["data"]["values"] for layer in course["layer"] if "data" in layer]
    assert [(row["step"], row["loss"]) for row in layers[0]] == [(1, 2.25), (2, None), (3, 1.75)]
    assert {"step": 3, "whole": 1.5, "last": 1.25} in [row for layer in layers for row in layer]
    assert "3 meta-steps, 1 of them not finite and not applied" in made
    assert ">1.25<" in made


@pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no Chromium here")
def test_browser_draws_the_page_and_keys_sort_its_table(tmp_path, results):
    pytest.importorskip("vl_convert", reason="the extra comm-lopt[report] is not installed")
    page._library.cache_clear()
    made = results_page([TitledResults(n, n, results) for n in ("one", "two")])
    page.write_page(tmp_path / "page.html", made)
    with browser.chromium(tmp_path / "profile") as tab:
        for width in (390, 1280):
            for scheme in ("light", "dark"):
                tab.open(tmp_path / "page.html", width, scheme)
                root = "document.documentElement"
                assert tab.run(f"{root}.scrollWidth <= {root}.clientWidth"), width
                assert not tab.told and len(tab.asked) == 1
                tab.screenshot(tmp_path / f"{width}_{scheme}.png")
        tab.hover(".chart svg")
        tooltip = "document.querySelector('#vg-tooltip-element.visible')?.innerText"
        shown = tab.run(
            f"""new Promise(done => {{ let left = 100; const look = () =>
            {tooltip} || !left-- ? done({tooltip} || "") : setTimeout(look, 20); look(); }})"""
        )
        assert "round" in shown and "SlowMo" in shown
        for _ in range(40):
            tab.press("Tab")
            if tab.run("document.activeElement.innerText") == "train loss":
                break
        tab.press("Enter", "\r")
        table = "document.activeElement.closest('table')"
        names = f"[...{table}.tBodies[0].rows].map(row => row.cells[0].innerText.trim())"
        assert tab.run("document.activeElement.closest('th').ariaSort") == "ascending"
        assert tab.run(names) == ["LOptA", "cost<$5", "SlowMo"]
        tab.press("Enter", "\r")
        assert tab.run(names) == ["cost<$5", "LOptA", "SlowMo"]
