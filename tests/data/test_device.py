"""Data on the device, and the batches of indices that are drawn from it."""

import jax
import numpy as np
import pytest

from comm_lopt.data.device import SPLITS, DeviceDatasets, IndexSampler
from comm_lopt.data.digits import digits_datasets


def epoch_of(sampler, num_batches):
    return np.concatenate([next(sampler) for _ in range(num_batches)])


def test_an_epoch_visits_each_example_at_most_once_and_all_that_fit():
    sampler = IndexSampler(100, 23, 5, seed=1)
    epochs = [epoch_of(sampler, 4) for _ in range(3)]
    for epoch in epochs:
        assert epoch.dtype == np.int32
        assert len(np.unique(epoch)) == 20
        assert epoch.min() >= 100
        assert epoch.max() < 123


def test_an_epoch_that_batches_divide_is_a_permutation():
    sampler = IndexSampler(7, 20, 5, seed=1)
    first, second = epoch_of(sampler, 4), epoch_of(sampler, 4)
    for epoch in (first, second):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(7, 27))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.arange(7, 27))


def test_state_is_the_position_and_restores_the_very_next_batch():
    sampler = IndexSampler(0, 23, 5, seed=3)
    sampler.take(6)
    restored = IndexSampler(0, 23, 5, seed=3)
    restored.state = sampler.state
    np.testing.assert_array_equal(restored.take(7), sampler.take(7))
    assert sampler.state == restored.state == 13


def test_order_is_a_function_of_the_seed():
    one, same, other = (IndexSampler(0, 50, 5, seed).take(10) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_splits_of_one_seed_are_shuffled_differently():
    train, test = IndexSampler(0, 50, 5, 0).take(10), IndexSampler(50, 50, 5, 0).take(10)
    assert not np.array_equal(train, test - 50)


def test_reseeded_sampler_starts_anew_and_leaves_the_first_alone():
    sampler = IndexSampler(9, 23, 5, seed=3)
    sampler.take(6)
    np.testing.assert_array_equal(
        sampler.reseeded(8).take(9), IndexSampler(9, 23, 5, seed=8).take(9)
    )
    assert sampler.state == 6


@pytest.mark.parametrize("num_batches", [1, 4, 5, 11])
def test_take_is_as_many_calls_of_next(num_batches):
    taking, calling = IndexSampler(0, 23, 5, seed=3), IndexSampler(0, 23, 5, seed=3)
    next(taking), next(calling)
    taken = taking.take(num_batches)
    assert taken.shape == (num_batches, 5)
    np.testing.assert_array_equal(taken, [next(calling) for _ in range(num_batches)])
    np.testing.assert_array_equal(next(taking), next(calling))


def test_split_smaller_than_a_batch_is_an_error_that_says_what_fits():
    with pytest.raises(ValueError, match=r"4 examples .* batch_size=5; pass batch_size=4 or less"):
        IndexSampler(0, 4, 5, seed=0)


def test_batch_of_no_examples_is_an_error():
    with pytest.raises(ValueError, match="batch_size=0: .* at least 1"):
        IndexSampler(0, 4, 0, seed=0)


def small_splits(sizes=(12, 4, 3, 5)):
    start = 0
    splits = {}
    for name, size in zip(SPLITS, sizes, strict=True):
        numbers = np.arange(start, start + size)
        splits[name] = {"x": numbers[:, None] * np.ones((1, 2)), "label": numbers * 10}
        splits[name] = {key: value.astype(np.uint8) for key, value in splits[name].items()}
        start += size
    return splits


def test_gather_gives_the_examples_at_the_indices():
    datasets = DeviceDatasets(small_splits(), batch_size=4)
    examples = jax.jit(datasets.gather)(np.asarray([13, 0, 13], np.int32))
    np.testing.assert_array_equal(examples["x"], [[13, 13], [0, 0], [13, 13]])
    np.testing.assert_array_equal(examples["label"], [130, 0, 130])
    assert examples["x"].dtype == np.uint8


def test_each_split_draws_from_its_own_examples():
    datasets = DeviceDatasets(small_splits(), batch_size=4)
    first = 0
    for name, size in zip(SPLITS, (12, 4, 3, 5), strict=True):
        np.testing.assert_array_equal(datasets.indices_of(name), np.arange(first, first + size))
        batch = next(datasets.split(name))
        # A held-out split that is smaller than a batch gives all that it has.
        assert batch.shape == (min(4, size),)
        assert set(batch) <= set(range(first, first + size))
        first += size
    assert datasets.abstract_batch.shape == (4,)
    assert datasets.abstract_batch.dtype == np.int32


def test_seed_decides_the_order():
    batches = [next(DeviceDatasets(small_splits(), 12, seed).train) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(batches[0], batches[1])
    assert not np.array_equal(batches[0], batches[2])


def test_arrays_of_a_split_that_disagree_in_length_are_an_error():
    splits = small_splits()
    splits["test"]["label"] = splits["test"]["label"][:-1]
    with pytest.raises(ValueError, match=r"'test' have lengths .*'label': 4"):
        DeviceDatasets(splits, 4)


def test_unknown_split_is_an_error_with_a_suggestion():
    with pytest.raises(ValueError, match="split 'tests' is not known; did you mean 'test'"):
        DeviceDatasets({**small_splits(), "tests": {}}, 4)
    with pytest.raises(ValueError, match="did you mean 'outer_valid'"):
        DeviceDatasets(small_splits(), 4).indices_of("outer_vald")


@pytest.mark.parametrize("name", SPLITS)
def test_missing_split_is_an_error_that_names_it(name):
    splits = small_splits()
    del splits[name]
    with pytest.raises(ValueError, match=f"{name}' has .* needs arrays under the same keys"):
        DeviceDatasets(splits, 4)


def test_split_with_other_keys_is_an_error_that_names_it():
    splits = small_splits()
    del splits["outer_valid"]["label"]
    with pytest.raises(ValueError, match=r"'outer_valid' has \['x'\] and 'train' has"):
        DeviceDatasets(splits, 4)


def test_digits_are_split_the_same_way_each_time_into_disjoint_parts():
    one, other = digits_datasets(batch_size=32), digits_datasets(batch_size=8, seed=5)
    sizes = [len(one.indices_of(name)) for name in SPLITS]
    assert sizes == [1437, 90, 90, 180]
    everything = np.concatenate([one.indices_of(name) for name in SPLITS])
    np.testing.assert_array_equal(everything, np.arange(1797))
    ours, theirs = one.gather(everything), other.gather(everything)
    for key in ("image", "label"):
        np.testing.assert_array_equal(ours[key], theirs[key])


def test_digits_are_bytes_on_the_device_and_hold_every_example_once():
    from sklearn.datasets import load_digits

    datasets = digits_datasets()
    batch = datasets.gather(np.arange(1797, dtype=np.int32))
    assert isinstance(batch["image"], jax.Array)
    assert (batch["image"].shape, batch["image"].dtype) == ((1797, 8, 8, 1), np.uint8)
    assert batch["label"].dtype == np.int32
    assert next(datasets.train).dtype == np.int32

    def rows(images, labels):
        flat = np.asarray(images).reshape(1797, 64)
        return sorted(map(tuple, np.column_stack([flat, labels]).astype(int)))

    digits = load_digits()
    assert rows(batch["image"], batch["label"]) == rows(digits.images, digits.target)


@pytest.mark.parametrize("batch_size", [0, 1438])
def test_digits_batch_size_out_of_range_is_an_error(batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}"):
        digits_datasets(batch_size=batch_size)
