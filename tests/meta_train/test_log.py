"""A run can be watched: rows and lines come as they are made, each family has its own."""

import csv
import os

import pytest
from tensorboardX.proto.event_pb2 import Event

from comm_lopt.long_runs import bar
from comm_lopt.long_runs.rows import reopened
from comm_lopt.meta_train.figure import FIGURE_FILE, draw, write_figure
from comm_lopt.meta_train.log import METRICS, METRICS_FILE, VALIDATION_FILE, MetaTrainLog

FAMILIES = ("images", "text")


def row(meta_step, loss=1.0, **more):
    return {**dict.fromkeys(METRICS, loss), "meta_step": meta_step, **more}


def of_families(measure, one, other):
    return {f"{measure}/images": one, f"{measure}/text": other}


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def event_tags(folder):
    (file,) = folder.glob("events.out.tfevents.*")
    content, tags = file.read_bytes(), []
    while content:
        size = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + size])
        tags += [value.tag for value in event.summary.value]
        content = content[16 + size :]
    return tags


@pytest.fixture
def log(tmp_path):
    made = MetaTrainLog(tmp_path, 0, 100, progress=False, families=FAMILIES)
    yield made
    made.close()


def test_rows_and_events_can_be_read_as_they_come_and_wait_for_no_disk(tmp_path, log, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    log.write(row(1, **of_families("meta_loss", 0.5, 1.5)))
    assert [found["meta_step"] for found in read(tmp_path / METRICS_FILE)] == ["1"]
    assert "meta_loss/text" in event_tags(tmp_path)
    assert not synced
    log.flush()
    assert synced


def test_families_have_columns_of_their_own_where_there_are_several(tmp_path, log):
    log.write(row(1, **of_families("meta_loss", 0.5, 1.5)))
    (found,) = read(tmp_path / METRICS_FILE)
    assert list(found) == [*METRICS, "meta_loss/images", "meta_loss/text"]
    assert (found["meta_loss/images"], found["meta_loss/text"]) == ("0.5", "1.5")
    log.write_validation(validated(1))
    (found,) = read(tmp_path / VALIDATION_FILE)
    assert found["final_train_loss/text"] == "4"
    assert "validation/final_train_loss/text" in event_tags(tmp_path)
    MetaTrainLog(tmp_path / "..", 0, 1, progress=False).close()
    assert read(tmp_path.parent / METRICS_FILE) == []


def validated(meta_step, loss=1.0):
    return {
        "meta_step": meta_step, "mean_train_loss": loss, "final_train_loss": loss, "seconds": 0.1,
        **of_families("mean_train_loss", loss, 2), **of_families("final_train_loss", loss, 4),
    }  # fmt: skip


def test_rows_of_an_earlier_version_are_kept_with_what_they_have(tmp_path):
    path = tmp_path / "skipped.csv"
    path.write_text("meta_step,what\n1,loss\n2,meta-loss\n3,lo", encoding="utf-8")
    reopened(path, ["meta_step", "what", "process"], 2).close()
    assert path.read_text(encoding="utf-8").split() == [
        "meta_step,what,process",
        "1,loss,",
        "2,meta-loss,",
    ]


def test_without_a_terminal_progress_is_a_line_now_and_then(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(bar.time, "monotonic", lambda: now[0])
    log = MetaTrainLog(tmp_path, 20, 100, progress=True, families=FAMILIES)
    for meta_step in range(21, 62):
        now[0] += 1.0
        log.write(row(meta_step, **of_families("meta_loss", 0.5, 1.5)))
    log.close()
    printed = capsys.readouterr().err
    assert "\r" not in printed and printed.endswith("\n")
    steps = [line.split("meta-step ")[1].split(" of 100 ")[0] for line in printed.splitlines()]
    assert steps == ["21", "31", "41", "51", "61"]
    assert "images=0.5000, text=1.5000" in printed
    # 41 meta-steps in 41 seconds, and 39 are left.
    assert "[00:41<00:39" in printed


def test_nothing_is_shown_where_it_is_not_wanted(tmp_path, log, capsys):
    log.write(row(1, **of_families("meta_loss", 0.5, 1.5)))
    log.write_validation(validated(1))
    assert capsys.readouterr().err == ""


@pytest.fixture
def logged(tmp_path, log):
    for meta_step in range(1, 61):
        losses = of_families("meta_loss", 2.0 / meta_step, 1.5)
        log.write(row(meta_step, float("nan") if meta_step == 7 else 1 / meta_step, **losses))
    log.write_validation(validated(30))
    log.write_validation(validated(60, 0.5))
    return tmp_path


def test_picture_of_a_run_shows_meta_loss_and_validation_of_every_family(logged, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda figure, path, **_: drawn.append((figure, path))
    )
    write_figure(logged)
    ((figure, path),) = drawn
    assert path == logged / FIGURE_FILE
    assert [axes.get_title() for axes in figure.axes] == ["mean of all tasks", "images", "text"]
    for axes in figure.axes:
        assert [len(line.get_xdata()) for line in axes.lines][2:] == [2, 2]
    losses, mean, *_ = figure.axes[0].lines
    assert len(losses.get_xdata()) == 60
    # Over 50 finite ones: the seventh is left out.
    assert list(mean.get_xdata()) == list(range(51, 61))
    assert (figure.axes[0].get_yscale(), figure.axes[2].get_yscale()) == ("log", "linear")


def test_picture_that_cannot_be_drawn_is_told_and_harms_nothing(logged, monkeypatch, capsys):
    def fails(*_, **__):
        raise RuntimeError("no font")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fails)
    draw(logged)
    assert f"no {FIGURE_FILE}: RuntimeError: no font" in capsys.readouterr().err
    assert len(read(logged / METRICS_FILE)) == 60
