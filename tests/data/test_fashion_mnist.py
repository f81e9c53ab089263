"""Fashion-MNIST from IDX files: small made-up ones, and the real ones where they are."""

import gzip

import jax
import numpy as np
import pytest
from small_tasks import write_fashion_mnist

from comm_lopt.data import fashion_mnist
from comm_lopt.data.fashion_mnist import fashion_mnist_datasets, find_fashion_mnist
from comm_lopt.data.idx import DataError, read_idx


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


def test_missing_files_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("COMM_LOPT_DATA", str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        find_fashion_mnist()
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        find_fashion_mnist(tmp_path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"size": 27}, r"images are \[N, 28, 28\]"),
        ({"labels": [10]}, "has the label 10"),
        ({"num_labels": 39}, "one label an image"),
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
    sizes = [len(datasets.indices_of(s)) for s in ("train", "inner_valid", "outer_valid", "test")]
    assert sizes == [48000, 6000, 6000, 10000]
    everything = datasets.gather(np.arange(70000))
    assert everything["image"].shape == (70000, 28, 28, 1)
    assert everything["image"].nbytes < 56e6
    counts = np.bincount(np.asarray(everything["label"]))
    np.testing.assert_array_equal(counts, np.full(10, 7000))
    files = sorted(real_fashion_mnist.iterdir())
    assert any(read_idx(path).shape == (60000, 28, 28) for path in files)
