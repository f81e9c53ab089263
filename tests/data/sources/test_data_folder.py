"""Where data are looked for, as people write it."""

import numpy as np
import pytest
from small_data import write_prepared
from small_tasks import write_fashion_mnist

from comm_lopt.data.sources.cifar import CIFAR10
from comm_lopt.data.sources.fashion_mnist import find_fashion_mnist
from comm_lopt.data.sources.folder import DATA_VARIABLE, data_folder
from comm_lopt.data.sources.idx import require_idx_files
from comm_lopt.data.sources.npz import read_npz
from comm_lopt.data.sources.prepared_source import prepared_folder
from comm_lopt.data.sources.text import read_text


def test_home_is_found_by_every_source(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(DATA_VARIABLE, "~/data")
    np.savez(tmp_path / "a.npz", image=np.ones(3))
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    write_fashion_mnist(tmp_path, 8, 5)
    write_prepared(tmp_path / "cifar", "cifar10", 4, 2)
    assert data_folder() == tmp_path / "data"
    assert set(read_npz("~/a.npz")) == {"image"} and len(read_text("~/a.txt")) == 4
    assert require_idx_files("~")["train"][0].parent == tmp_path == find_fashion_mnist("~")
    assert prepared_folder(CIFAR10, "~/cifar") == tmp_path / "cifar"


def test_home_that_does_not_exist_is_a_missing_file():
    with pytest.raises(FileNotFoundError, match="~nobody-of-this-name"):
        read_npz("~nobody-of-this-name/a.npz")
