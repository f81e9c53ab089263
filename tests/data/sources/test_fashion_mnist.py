"""Fashion-MNIST from small made-up files, and from the real ones where they are."""

import gzip

import jax
import numpy as np
import pytest
from small_data import write_prepared
from small_tasks import write_fashion_mnist

from comm_lopt.data.feeding.examples import SPLITS
from comm_lopt.data.sources import fashion_mnist
from comm_lopt.data.sources.fashion_mnist import fashion_mnist_datasets, find_fashion_mnist
from comm_lopt.data.sources.folder import DataError
from comm_lopt.data.sources.idx import read_idx
from comm_lopt.data.sources.prepared import writing_prepared


def test_splits_are_those_of_the_files_in_order(tmp_path):
    images, labels = write_fashion_mnist(tmp_path, num_train=40, num_test=7)
    datasets = fashion_mnist_datasets(batch_size=4, folder=str(tmp_path))
    sizes = {name: len(datasets.indices_of(name)) for name in ("train", "inner_valid")}
    assert sizes == {"train": 32, "inner_valid": 4}
    assert len(datasets.indices_of("outer_valid")) == 4
    assert len(datasets.indices_of("test")) == 7
    valid = datasets.gather(datasets.indices_of("outer_valid"))
    np.testing.assert_array_equal(valid["image"][..., 0], images[36:40])
    np.testing.assert_array_equal(valid["label"], labels[36:40])
    test = datasets.gather(datasets.indices_of("test"))
    np.testing.assert_array_equal(test["label"], labels[40:])
    assert test["image"].dtype == np.uint8


def test_gzipped_files_give_the_same(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "packed").mkdir()
    write_fashion_mnist(tmp_path / "plain", 40, 7)
    for path in (tmp_path / "plain").iterdir():
        packed = tmp_path / "packed" / f"{path.name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
    one, other = (
        fashion_mnist_datasets(4, folder=str(tmp_path / name)).gather(np.arange(47))
        for name in ("plain", "packed")
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_half_the_size_samples_between_four_pixels(tmp_path):
    images, _ = write_fashion_mnist(tmp_path, 40, 7)
    resized = fashion_mnist_datasets(4, image_size=14, folder=str(tmp_path)).gather(np.arange(40))
    # At half the size each sample lies in the middle of four pixels.
    expected = images[:40].reshape(40, 14, 2, 14, 2).astype(np.float64).mean((2, 4))
    difference = np.abs(np.asarray(resized["image"])[..., 0] - expected)
    assert resized["image"].shape == (40, 14, 14, 1)
    assert difference.max() <= 0.5 + 1e-4


def test_data_folder_of_the_environment_is_found(tmp_path, monkeypatch):
    folder = tmp_path / "fashion_mnist"
    folder.mkdir()
    write_fashion_mnist(folder, 40, 7)
    monkeypatch.setenv("COMM_LOPT_DATA", str(tmp_path))
    assert find_fashion_mnist() == folder


def test_prepared_data_is_read_where_there_are_no_idx_files(tmp_path):
    written = write_prepared(tmp_path / "prepared", "fashion_mnist", 40, 7)
    datasets = fashion_mnist_datasets(4, folder=str(tmp_path / "prepared"))
    parts = zip(SPLITS, (slice(0, 32), slice(32, 36), slice(36, 40), slice(0, 7)), strict=True)
    for name, part in parts:
        arrays = written["test" if name == "test" else "train"]
        for key in ("image", "label"):
            np.testing.assert_array_equal(datasets.array_of(name, key), arrays[key][part])


def test_prepared_data_can_be_resized(tmp_path):
    images, labels = write_fashion_mnist(tmp_path, 40, 7)
    with writing_prepared(tmp_path / "prepared") as writer:
        for name, part in (("train", slice(0, 40)), ("test", slice(40, 47))):
            arrays = {"image": images[part, ..., None], "label": labels[part].astype(np.int32)}
            writer.write(name, iter([arrays]))
        writer.finish({})
    one, other = (
        fashion_mnist_datasets(4, image_size=10, folder=str(folder))
        for folder in (tmp_path, tmp_path / "prepared")
    )
    np.testing.assert_array_equal(one.array_of("test", "image"), other.array_of("test", "image"))
    assert one.array_of("test", "image").shape == (7, 10, 10, 1)


def test_idx_files_come_before_prepared_data_and_both_before_debians(tmp_path, monkeypatch):
    debian, ours = tmp_path / "debian", tmp_path / "data" / "fashion_mnist"
    monkeypatch.setattr(fashion_mnist, "_DEBIAN_FOLDER", debian)
    monkeypatch.setenv("COMM_LOPT_DATA", str(tmp_path / "data"))
    debian.mkdir()
    write_fashion_mnist(debian, 10, 1)
    assert find_fashion_mnist() == debian
    write_prepared(ours, "fashion_mnist", 20, 2)
    assert find_fashion_mnist() == ours
    assert len(fashion_mnist_datasets(1).indices_of("test")) == 2
    write_fashion_mnist(ours, 40, 7)
    fashion_mnist._read.cache_clear()
    assert len(fashion_mnist_datasets(1).indices_of("test")) == 7


def test_missing_files_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("COMM_LOPT_DATA", str(tmp_path / "data"))
    for told in ("apt-get install dataset-fashion-mnist", "comm-lopt data prepare fashion_mnist"):
        with pytest.raises(FileNotFoundError, match=told):
            find_fashion_mnist()
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        find_fashion_mnist(tmp_path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"size": 27}, r"images of \[27, 27, 1\] and here they are \[28, 28, 1\]"),
        ({"labels": [10]}, "has the label 10"),
        ({"num_labels": 39}, "39\\] beside 40 images; there is one label"),
    ],
)
def test_files_that_are_not_fashion_mnist_are_refused(tmp_path, damage, told):
    write_fashion_mnist(tmp_path, 40, 7, **damage)
    with pytest.raises(DataError, match=told):
        fashion_mnist_datasets(4, folder=str(tmp_path))


@pytest.mark.parametrize("arguments", [{"image_size": 0}, {"batch_size": 0}, {"batch_size": 33}])
def test_bad_sizes_are_refused(tmp_path, arguments):
    write_fashion_mnist(tmp_path, 40, 7)
    with pytest.raises(ValueError, match=next(iter(arguments))):
        fashion_mnist_datasets(folder=str(tmp_path), **arguments)


def test_the_real_data_is_whole(real_fashion_mnist):
    datasets = fashion_mnist_datasets(batch_size=128, folder=str(real_fashion_mnist))
    sizes = [len(datasets.indices_of(name)) for name in SPLITS]
    assert sizes == [48000, 6000, 6000, 10000]
    everything = datasets.gather(np.arange(70000))
    assert everything["image"].shape == (70000, 28, 28, 1)
    assert everything["image"].nbytes < 56e6
    counts = np.bincount(np.asarray(everything["label"]))
    np.testing.assert_array_equal(counts, np.full(10, 7000))
    files = sorted(real_fashion_mnist.iterdir())
    assert any(read_idx(path).shape == (60000, 28, 28) for path in files)
