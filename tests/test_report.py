"""Tables and figures say what the results say, diverged runs included."""

import json

import matplotlib
import pytest
from small_results import small_entry, small_results

import comm_lopt
from comm_lopt.meta_test.results import read_results


@pytest.fixture
def results():
    return small_results(
        {
            "SlowMo": small_entry([2.0, None, None], diverged=[2], final=None),
            "LocalSGD": small_entry([2.0, 1.5, 0.5]),
            "LOptA": small_entry([2.0, 0.5, 0.25], final=0.25, learned=True),
        }
    )


def row_of(results, label):
    rows = comm_lopt.markdown_table(results).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    return dict(zip(cells[0], next(row for row in cells if row[0] == label), strict=True))


def test_table_of_a_language_task_has_bits_per_byte(results):
    assert "bits per byte" not in comm_lopt.markdown_table(results)
    results["methods"]["LOptA"]["heldout"]["bits_per_byte"] = 2.3456
    assert row_of(results, "LOptA")["held-out bits per byte"] == "2.346"


def test_table_has_the_best_first_and_the_diverged_last(results):
    rows = comm_lopt.markdown_table(results).splitlines()
    assert [row.split(" | ")[0].strip("| ") for row in rows[2:]] == ["LOptA", "LocalSGD", "SlowMo"]
    assert "not finite (1 of 2 seeds diverged)" in rows[-1]
    assert "not reached" in rows[2] and "| 2 |" in rows[2]
    assert "rounds (of 3) to LocalSGD's final loss" in rows[0]
    assert len({row.count("|") for row in rows}) == 1


def test_table_has_both_losses_with_their_deviations_and_both_ways_of_communication(results):
    results["methods"]["LOptA"]["heldout"] |= {"accuracy": 0.98, "accuracy_std": 0.0123}
    row = row_of(results, "LOptA")
    assert row["train loss"] == "0.25 ± 0.012"
    assert row["loss at the weights"] == "0.25 ± 0.02"
    assert row["held-out accuracy"] == "98.0% ± 1.2%"
    assert row["KB sent / received a round"] == "4.1 / 32.8"


def test_table_shows_the_values_that_were_chosen_and_no_defaults(results):
    assert row_of(results, "LocalSGD")["hyperparameters"] == "momentum=0.9, implementation=auto"


def test_figure_draws_every_method_and_target_and_the_learned_ones_boldly(results):
    axes = comm_lopt.loss_figure(results).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(results["methods"])
    assert axes.get_yscale() == "log"
    curves = {line.get_label(): line for line in axes.lines}
    assert list(curves["LOptA"].get_ydata()) == [2.0, 0.5, 0.25]
    assert list(curves["LOptA"].get_xdata()) == [1, 2, 3]
    assert curves["LOptA"].get_linewidth() > curves["LocalSGD"].get_linewidth()


def test_band_of_the_figure_is_the_deviation(results):
    axes = comm_lopt.loss_figure(results).axes[0]
    band = axes.collections[2].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(2.1) and band.min() == pytest.approx(0.15)


@pytest.mark.parametrize("name", ["cost<$5", "$x", "_private", "a|b", "100%", "{x}^2"])
def test_any_printable_name_is_written_read_and_drawn(tmp_path, results, name):
    methods = {name: results["methods"]["LOptA"]}
    for entry in methods.values():
        entry["rounds_to"] = {name: 1}
    results |= {"methods": methods, "targets": {name: 0.5}}
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert read_results(tmp_path) == results
    with matplotlib.rc_context({"text.usetex": True}):
        comm_lopt.write_report(tmp_path, results)
        (legend,) = comm_lopt.loss_figure(results).axes[0].get_legend().get_texts()
    assert legend.get_text().strip().replace("\\", "") == name and not legend.get_usetex()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cost<$5", r"cost\<\$5"),
        ("_x_y", r"\_x_y"),
        ("__x", r"\_\_x"),
        ("a|b", r"a\|b"),
        ("a\\|b", r"a\\\|b"),
        ("*[x](y)`&~", r"\*\[x\](y)\`\&\~"),
        ("momentum=0.9, local_learning_rate", "momentum=0.9, local_learning_rate"),
    ],
)
def test_markdown_shows_a_name_as_it_is(results, name, shown):
    results["methods"] = {name: results["methods"]["LOptA"]}
    *_, row = comm_lopt.markdown_table(results).splitlines()
    assert row.startswith(f"| {shown} | 0.25")


def test_table_is_one_line_a_method_whatever_the_hyperparameters_say(results):
    entry = results["methods"]["LOptA"]
    entry["hparams"], entry["sources"] = {"path": "a\nb" + 500 * "c"}, {"path": "gin"}
    cell = row_of(results, "LOptA")["hyperparameters"]
    assert cell.startswith(r"path=a\\nbc") and cell.endswith("c…") and len(cell) < 210


def test_report_writes_table_and_picture(tmp_path, results):
    table, figure = comm_lopt.write_report(tmp_path, results)
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == table
    assert figure.read_bytes().startswith(b"\x89PNG")
