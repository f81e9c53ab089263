"""The cost experiment: times to a loss are those counted by hand, and nothing runs twice."""

import json
import subprocess

import pytest


@pytest.fixture
def cost(modules_of):
    return modules_of("reproduction/cost", "reproduction", "generalisation")("run")


def record(losses, working, merging, sent, received, limited_by=None):
    return {
        "train_loss": losses, "seconds_working": working, "seconds_merging": merging,
        "bytes_sent": sent, "bytes_received": received, "limited_by": limited_by,
    }  # fmt: skip


@pytest.fixture
def records(cost, tmp_path):
    """Four rounds of two methods on three links."""
    folder = tmp_path / "records"
    folder.mkdir()
    for link, merging in (("loopback", 0.01), ("1000", 0.02), ("100", 0.1)):
        limited_by = None if link == "loopback" else "tc"
        for method, losses in (("LocalSGD", [4.0, 3.0, 2.0, 1.0]), ("LOptR", [2.0, 1.0, 0.5, 0.1])):
            found = record(losses, 0.03, merging, 500_000, 1_000_000, limited_by)
            found["description"] = cost.description(
                method, None if link == "loopback" else float(link), 4
            )
            (folder / f"{method}_{link}_4.json").write_text(json.dumps(found), encoding="utf-8")
    return tmp_path


def test_seconds_to_a_loss_are_those_counted_by_hand(cost, records, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("all of it is there"))
    command = ["--out_dir", str(records), "--methods", "LocalSGD,LOptR", "--rounds", "4"]
    assert cost.main(command) == 0
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (records / "table.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    costs, times = rows[2:4], rows[6:8]
    assert costs[1] == ["LOptR", "500 / 1000", "30.0", "10.0"]
    found = {row[0]: row[1:] for row in times}
    # LOptR is at 1.0 after 2 rounds of 30 + 10 ms; 8e6 bits take 0.8, 8 and 80 ms on the links.
    assert found["LOptR"] == ["2", "0.08", "0.10", "0.24", "0.10", "0.26"]
    assert found["LocalSGD"] == ["4", "0.16", "0.19", "0.48", "0.20", "0.52"]
    assert (records / "time.png").stat().st_size > 10_000


def test_loss_that_is_not_reached_has_no_time(cost):
    run = record([3.0, 2.0], 0.03, 0.01, 10, 10)
    assert cost.seconds_to(run, 1.0, None) is None


def test_what_was_run_with_other_values_is_run_again(cost, records, monkeypatch):
    class StartedError(Exception):
        pass

    def started(*arguments, **keywords):
        raise StartedError

    monkeypatch.setattr(subprocess, "run", started)
    command = ["--out_dir", str(records), "--methods", "LOptR", "--rounds", "4"]
    monkeypatch.setitem(cost.METHODS, "LOptR", "lopt-r-1:local_learning_rate=0.2")
    with pytest.raises(StartedError):
        cost.main(command)
