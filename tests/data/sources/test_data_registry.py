"""The registry of sources, and the command `comm-lopt data` that shows it."""

import shutil
import sys

import pytest
from small_tasks import write_fashion_mnist

import comm_lopt
from comm_lopt.cli import main
from comm_lopt.data.sources import fashion_mnist
from comm_lopt.data.sources.folder import DATA_VARIABLE
from comm_lopt.data.sources.registry import PREPARED, SOURCES


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    """An empty folder of data, and no package of Debian's."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    monkeypatch.setattr(fashion_mnist, "_DEBIAN_FOLDER", tmp_path / "debian")
    return tmp_path


def listing(capsys):
    """What `comm-lopt data` says of each source: {name: [summary, gin, where]}."""
    assert main(["data"]) == 0
    said, last = capsys.readouterr().out.split("\n\n")
    lines = said.splitlines()
    assert len(lines) == 3 * len(SOURCES)
    entries = [lines[i : i + 3] for i in range(0, len(lines), 3)]
    found = {entry[0].split()[0]: [line[15:] for line in entry] for entry in entries}
    assert list(found) == list(SOURCES)
    return found, last


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_names_a_public_configurable(name):
    assert callable(getattr(comm_lopt, SOURCES[name].configurable))


def test_every_prepared_data_set_is_a_source():
    assert set(PREPARED) < set(SOURCES)


def test_sources_that_are_not_here_are_listed_with_how_to_get_them(capsys, data_folder):
    found, last = listing(capsys)
    for name, (summary, gin, where) in found.items():
        assert summary == SOURCES[name].summary
        assert gin == f"gin: {SOURCES[name].configurable}"
        if name in PREPARED:
            assert where.startswith("not here: ")
            assert f"`comm-lopt data prepare {name}`" in where
        else:
            assert where.startswith(("here: ", "yours: "))
    assert "apt-get install dataset-fashion-mnist" in found["fashion_mnist"][2]
    assert found["npz"][2] == "yours: bind npz_datasets.path"
    assert last == f"{DATA_VARIABLE} is {data_folder}\n"


def test_sources_that_are_here_are_listed_with_their_folders(
    capsys, small_data_folder, monkeypatch
):
    monkeypatch.setenv(DATA_VARIABLE, str(small_data_folder))
    found, _ = listing(capsys)
    for name in PREPARED:
        assert found[name][2] == f"here: {small_data_folder / name}"


@pytest.mark.parametrize("name", ["cifar10", "lm1b"])
def test_damaged_source_is_listed_as_damaged_and_the_others_as_they_are(
    capsys, data_folder, small_data_folder, name
):
    for source in ("cifar10", "lm1b"):
        shutil.copytree(small_data_folder / source, data_folder / source)
    path = next((data_folder / name).glob("train.*.npy"))
    path.write_bytes(path.read_bytes()[:-1])
    found, _ = listing(capsys)
    where = {source: found[source][2] for source in ("cifar10", "lm1b")}
    assert where.pop(name).startswith(f"damaged: {path} has ")
    assert next(iter(where.values())).startswith("here: ")


def test_damaged_prepared_fashion_mnist_is_listed_as_damaged(capsys, data_folder):
    folder = data_folder / "fashion_mnist"
    folder.mkdir()
    (folder / "dataset.json").write_text("{}", encoding="utf-8")
    assert listing(capsys)[0]["fashion_mnist"][2].startswith("damaged: ")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("cifar1O", "cifar10"), ("imagenet", "imagenet64"), ("fashion-mnist", "fashion_mnist")],
)
def test_preparing_an_unknown_name_suggests_the_nearest(capsys, name, nearest):
    assert main(["data", "prepare", name]) == 2
    said = capsys.readouterr()
    assert f"data set {name!r} is not known; did you mean {nearest!r}?" in said.err
    assert said.out == ""


def test_preparing_what_resembles_nothing_lists_the_names(capsys):
    assert main(["data", "prepare", "xyz"]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in PREPARED)


@pytest.mark.parametrize("extra", [[], ["--tfds_dir", "somewhere"]])
def test_preparing_without_tensorflow_says_what_to_install(capsys, monkeypatch, data_folder, extra):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert main(["data", "prepare", "cifar10", *extra]) == 2
    assert 'pip install "comm-lopt[tfds]"' in capsys.readouterr().err
    assert list(data_folder.iterdir()) == []


def test_making_tfdss_fashion_mnist_without_tensorflow_says_what_to_install(
    capsys, monkeypatch, data_folder
):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    write_fashion_mnist(data_folder, 8, 5)
    assert main(["data", "prepare", "fashion_mnist", "--from_dir", str(data_folder)]) == 2
    assert 'pip install "comm-lopt[tfds]"' in capsys.readouterr().err


def test_idx_files_of_another_data_set_are_refused(capsys, data_folder):
    assert main(["data", "prepare", "cifar10", "--from_dir", str(data_folder)]) == 2
    told = "--from_dir with cifar10: only fashion_mnist is made from IDX files; leave --from_dir"
    assert told in capsys.readouterr().err
