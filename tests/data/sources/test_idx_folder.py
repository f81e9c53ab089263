"""Any data set in four IDX files."""

import gzip
import pathlib

import numpy as np
import pytest
from small_tasks import write_fashion_mnist

from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.sources.folder import DataError
from comm_lopt.data.sources.idx_folder import idx_folder_datasets


def test_splits_are_stretches_of_the_training_files_and_the_t10k_files(tmp_path):
    images, labels = write_fashion_mnist(tmp_path, 43, 7, size=12)
    datasets = idx_folder_datasets(str(tmp_path), batch_size=4)
    assert isinstance(datasets, DeviceDatasets)
    parts = {
        "train": slice(0, 34),
        "inner_valid": slice(34, 39),
        "outer_valid": slice(39, 43),
        "test": slice(43, 50),
    }
    for name, part in parts.items():
        np.testing.assert_array_equal(datasets.array_of(name, "image")[..., 0], images[part])
        np.testing.assert_array_equal(datasets.array_of(name, "label"), labels[part])
    assert datasets.abstract_examples()["image"].shape == (4, 12, 12, 1)
    assert datasets.extra_info["num_classes"] == 10


def test_packed_files_give_the_same(tmp_path):
    images, _ = write_fashion_mnist(tmp_path, 40, 7)
    for path in list(tmp_path.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    datasets = idx_folder_datasets(pathlib.Path(tmp_path), batch_size=4)
    np.testing.assert_array_equal(datasets.array_of("train", "image")[..., 0], images[:32])


def test_missing_file_is_told(tmp_path):
    write_fashion_mnist(tmp_path, 40, 7)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    names = ["t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"]
    told = ", ".join(f"{name}, {name}.gz" for name in names)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} has none of {told}; put"):
        idx_folder_datasets(str(tmp_path))


def test_test_images_of_another_size_are_refused(tmp_path):
    write_fashion_mnist(tmp_path, 40, 7)
    other = tmp_path / "other"
    other.mkdir()
    write_fashion_mnist(other, 40, 7, size=12)
    name = "t10k-images-idx3-ubyte"
    (tmp_path / name).write_bytes((other / name).read_bytes())
    with pytest.raises(DataError, match=r"t10k-images.* has images of \[12, 12, 1\]"):
        idx_folder_datasets(str(tmp_path), batch_size=4)


def test_label_beyond_the_classes_is_refused(tmp_path):
    write_fashion_mnist(tmp_path, 40, 7, labels=[7])
    with pytest.raises(DataError, match="has the label [789]; labels lie in 0 to 6"):
        idx_folder_datasets(str(tmp_path), batch_size=4, num_classes=7)


def test_too_few_images_for_a_split_are_an_error_that_names_it(tmp_path):
    write_fashion_mnist(tmp_path, 4, 7)
    with pytest.raises(ValueError, match="split 'outer_valid' has no examples"):
        idx_folder_datasets(str(tmp_path), batch_size=2)


@pytest.mark.parametrize("batch_size", [0, 33])
def test_batch_size_out_of_range_is_an_error(tmp_path, batch_size):
    write_fashion_mnist(tmp_path, 40, 7)
    with pytest.raises(ValueError, match=f"batch_size={batch_size}"):
        idx_folder_datasets(str(tmp_path), batch_size=batch_size)
