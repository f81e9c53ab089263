"""CIFAR and ImageNet from their prepared folders: small made-up ones."""

import jax
import numpy as np
import pytest
from small_data import write_prepared
from small_tasks import assert_trees_equal

from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.examples import SPLITS
from comm_lopt.data.feeding.rounds import round_datasets
from comm_lopt.data.feeding.streams import StreamDatasets
from comm_lopt.data.sources.cifar import cifar10_datasets, cifar100_datasets
from comm_lopt.data.sources.folder import DATA_VARIABLE
from comm_lopt.data.sources.imagenet import imagenet_datasets


@pytest.mark.parametrize(
    ("name", "datasets_of", "num_classes"),
    [("cifar10", cifar10_datasets, 10), ("cifar100", cifar100_datasets, 100)],
)
def test_cifar_lies_on_the_device_in_upstreams_splits(tmp_path, name, datasets_of, num_classes):
    written = write_prepared(tmp_path / name, name, num_train=50, num_test=9)
    datasets = datasets_of(batch_size=4, seed=3, folder=str(tmp_path / name))
    assert isinstance(datasets, DeviceDatasets)
    assert datasets.extra_info["num_classes"] == num_classes
    parts = zip(SPLITS, (slice(0, 40), slice(40, 45), slice(45, 50), slice(0, 9)), strict=True)
    for split, part in parts:
        source = written["test" if split == "test" else "train"]
        for key in ("image", "label"):
            np.testing.assert_array_equal(datasets.array_of(split, key), source[key][part])
    batch = next(datasets.train)
    examples = datasets.gather(batch)
    assert (examples["image"].shape, examples["image"].dtype) == ((4, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(examples["image"], written["train"]["image"][batch])


@pytest.mark.parametrize("size", [32, 64])
def test_imagenet_is_streamed_in_upstreams_splits(tmp_path, size):
    name = f"imagenet{size}"
    written = write_prepared(tmp_path / name, name, num_train=100, num_test=9)
    assert set(written) == {"train", "validation"}
    datasets = imagenet_datasets(size, batch_size=4, folder=str(tmp_path / name))
    assert isinstance(datasets, StreamDatasets)
    assert datasets.extra_info["num_classes"] == 1000
    parts = zip(SPLITS, (slice(0, 96), slice(96, 98), slice(98, 100), slice(0, 9)), strict=True)
    for split, part in parts:
        source = written["validation" if split == "test" else "train"]
        for key in ("image", "label"):
            np.testing.assert_array_equal(datasets.array_of(split, key), source[key][part])
    assert isinstance(datasets.examples.splits["train"]["image"], np.memmap)
    batch = next(datasets.train)
    assert (batch["image"].shape, batch["image"].dtype) == ((4, size, size, 3), np.uint8)
    pairs = {
        (image.tobytes(), int(label))
        for image, label in zip(*(written["train"][k] for k in ("image", "label")), strict=True)
    }
    assert {
        (image.tobytes(), int(label))
        for image, label in zip(batch["image"], batch["label"], strict=True)
    } < pairs


def test_resident_imagenet_gives_the_same_batches(small_data_folder, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(small_data_folder))
    streamed, resident = (
        imagenet_datasets(32, batch_size=2, seed=5, resident=resident) for resident in (False, True)
    )
    assert isinstance(resident, DeviceDatasets)
    for split in SPLITS:
        found = jax.jit(resident.gather)(next(resident.split(split)))
        assert_trees_equal(found, next(streamed.split(split)))


def test_rounds_of_streamed_images_hold_the_images_of_each_worker(small_data_folder):
    folder = str(small_data_folder / "imagenet32")
    rounds, plain = (imagenet_datasets(32, batch_size=2, folder=folder) for _ in range(2))
    batch = next(round_datasets(rounds, 3, 2).train)
    assert batch["image"].shape == (3, 2, 2, 32, 32, 3)
    expected = plain.train.take(6)
    np.testing.assert_array_equal(batch["label"].reshape(6, 2), expected["label"])
    np.testing.assert_array_equal(batch["image"].reshape(6, 2, 32, 32, 3), expected["image"])


@pytest.mark.parametrize("size", [48, 224])
def test_imagenet_of_another_size_is_an_error_with_a_suggestion(size):
    with pytest.raises(ValueError, match=f"'imagenet{size}' is not known; did you mean 'imagenet"):
        imagenet_datasets(size)


@pytest.mark.parametrize(
    ("datasets_of", "name"),
    [
        (cifar10_datasets, "cifar10"),
        (cifar100_datasets, "cifar100"),
        (imagenet_datasets, "imagenet32"),
    ],
)
def test_data_that_has_not_been_prepared_says_how_to(tmp_path, monkeypatch, datasets_of, name):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"run `comm-lopt data prepare {name}`"):
        datasets_of()


@pytest.mark.parametrize("datasets_of", [cifar10_datasets, imagenet_datasets])
@pytest.mark.parametrize("batch_size", [0, 100_000])
def test_batch_size_out_of_range_is_an_error(
    small_data_folder, monkeypatch, datasets_of, batch_size
):
    monkeypatch.setenv(DATA_VARIABLE, str(small_data_folder))
    with pytest.raises(ValueError, match=f"batch_size={batch_size}"):
        datasets_of(batch_size=batch_size)
