"""The digits that scikit-learn bundles."""

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits
from small_tasks import assert_trees_equal

from comm_lopt.data.feeding.examples import SPLITS
from comm_lopt.data.sources import digits as digits_module
from comm_lopt.data.sources.digits import digits_datasets

EVERYTHING = np.arange(1797, dtype=np.int32)


def test_digits_are_split_the_same_way_each_time_into_disjoint_parts():
    one, other = digits_datasets(batch_size=32), digits_datasets(batch_size=8, seed=5)
    assert [len(one.indices_of(name)) for name in SPLITS] == [1437, 90, 90, 180]
    together = np.concatenate([one.indices_of(name) for name in SPLITS])
    np.testing.assert_array_equal(together, EVERYTHING)
    assert_trees_equal(one.gather(EVERYTHING), other.gather(EVERYTHING))


def test_digits_are_bytes_on_the_device_and_hold_every_example_once():
    datasets = digits_datasets()
    batch = datasets.gather(EVERYTHING)
    assert isinstance(batch["image"], jax.Array)
    assert (batch["image"].shape, batch["image"].dtype) == ((1797, 8, 8, 1), np.uint8)
    assert batch["label"].dtype == np.int32
    assert next(datasets.train).dtype == np.int32

    def rows(images, labels):
        flat = np.asarray(images).reshape(1797, 64)
        return sorted(map(tuple, np.column_stack([flat, labels]).astype(int)))

    digits = load_digits()
    assert rows(batch["image"], batch["label"]) == rows(digits.images, digits.target)


def test_largest_grey_value_is_told():
    datasets = digits_datasets()
    assert datasets.extra_info["largest_value"] == datasets.array_of("train", "image").max() == 16


@pytest.mark.parametrize("batch_size", [0, 1438])
def test_batch_size_out_of_range_is_an_error(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}"):
        digits_datasets(batch_size=batch_size)


def test_file_that_lies_elsewhere_is_read_by_scikit_learn(monkeypatch):
    read = digits_module._load()
    monkeypatch.setattr(digits_module.importlib.util, "find_spec", lambda name: None)
    for array, expected in zip(digits_module._load(), read, strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
