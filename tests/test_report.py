"""Tables and figures say what the results say, diverged runs included."""

import pytest
from small_results import small_results

import comm_lopt


def _entry(losses, diverged=(), final=1.0):
    return {
        "hparams": {"momentum": 0.9},
        "train_loss": losses,
        "train_loss_std": [None if loss is None else 0.1 for loss in losses],
        "final_train_loss": final,
        "diverged_seeds": list(diverged),
        "heldout": {"split": "test", "loss": final, "accuracy": None},
        "rounds_to": {"final_loss_of_LocalSGD": None, "half": 2},
        "bytes_per_round_per_worker": 4096,
        "seconds_per_round": 0.001,
    }


@pytest.fixture
def results():
    return small_results(
        {
            "SlowMo": _entry([2.0, None, None], diverged=[2], final=None),
            "LocalSGD": _entry([2.0, 1.5, 0.5], final=0.5),
            "LOptA": _entry([2.0, 0.5, 0.25], final=0.25),
        }
    )


def test_table_of_a_language_task_has_bits_per_byte(results):
    assert "bits per byte" not in comm_lopt.markdown_table(results)
    results["optimizers"]["LOptA"]["heldout"]["bits_per_byte"] = 2.3456
    table = comm_lopt.markdown_table(results)
    assert "| held-out bits per byte |" in table.splitlines()[0]
    assert "| 2.346 |" in table


def test_table_has_the_best_first_and_the_diverged_last(results):
    rows = comm_lopt.markdown_table(results).splitlines()
    assert [row.split(" | ")[0].strip("| ") for row in rows[2:]] == ["LOptA", "LocalSGD", "SlowMo"]
    assert "not finite (1 of 2 seeds diverged)" in rows[-1]
    assert "not reached" in rows[2] and "| 2 |" in rows[2]
    assert "rounds (of 3) to LocalSGD's final loss" in rows[0]
    assert len({row.count("|") for row in rows}) == 1


def test_figure_draws_every_optimizer_and_target(results):
    axes = comm_lopt.loss_figure(results).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(
        results["optimizers"]
    )
    assert axes.get_yscale() == "log"
    curve = next(line for line in axes.lines if line.get_label() == "LOptA")
    assert list(curve.get_ydata()) == [2.0, 0.5, 0.25]


def test_report_writes_table_and_picture(tmp_path, results):
    table, figure = comm_lopt.write_report(tmp_path, results)
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == table
    assert figure.read_bytes().startswith(b"\x89PNG")
