"""What one process of meta-training cannot read alone is told in all, before anything is exchanged.

The other process is played here; tests/train/test_processes.py has two, of `train`.
"""

import json

import jax
import pytest
import small_run

from comm_lopt.cli import main
from comm_lopt.processes import joining


class Board:
    """Process 0 leaves its texts here; `other` is what process 1 says of each block."""

    def __init__(self, *other):
        self.own, self.other = [], other

    def post(self, name, text):
        assert name.endswith("/0")
        self.own.append(json.loads(text))

    def read(self, name):
        texts = self.own if name.endswith("/0") else self.other
        return json.dumps(texts[len(self.own) - 1])


@pytest.fixture
def meta_train(monkeypatch, tmp_path, capsys, ordinary_promotion):
    """Exit code and stderr of `meta-train` in process 0 of two."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: None)

    def ended(board, *more):
        monkeypatch.setattr(joining, "shared_board", lambda: board)
        flags = [text for file in small_run.FILES for text in ("--config_file", file)]
        flags += [text for line in small_run.SMALL for text in ("--gin_bindings", line)]
        code = main(["meta-train", *flags, "--train_log_dir", str(tmp_path / "run"), *more])
        assert not (tmp_path / "run").exists()
        return code, capsys.readouterr().err

    return ended


@pytest.mark.parametrize("well", [0, 1], ids=["configuration", "data"])
def test_what_another_process_cannot_read_is_told_here(meta_train, well):
    board = Board(*[""] * well, "FileNotFoundError: there is no file /data.npz")
    code, told = meta_train(board)
    assert code == 7
    assert "process 0 ends because another failed" in told
    assert "process 1: FileNotFoundError: there is no file /data.npz" in told
    assert board.own == [""] * (well + 1)


@pytest.mark.parametrize(
    ("flags", "well"),
    [
        (["--config_file", "nowhere.gin"], 0),
        (
            [
                "--gin_bindings=digits_mlp.datasets = @npz_datasets()",
                "--gin_bindings=npz_datasets.path = 'nowhere.npz'",
            ],
            1,
        ),
    ],
    ids=["configuration", "data"],
)
def test_what_this_process_cannot_read_is_told_to_the_other(meta_train, flags, well):
    board = Board("", "")
    code, told = meta_train(board, *flags)
    assert code == 2 and "nowhere" in told
    *before, last = board.own
    assert before == [""] * well
    assert "nowhere" in last and ("Error: " in last)
