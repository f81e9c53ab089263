"""What a data set holds, and how a batch is taken from it."""

import numpy as np
import pytest
from small_data import labelled_examples, numbered_examples, text_windows

from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.examples import SPLITS, LabelledExamples, TextWindows
from comm_lopt.data.feeding.streams import StreamDatasets


def splits_of(sizes=(12, 4, 3, 5)):
    return {name: dict(arrays) for name, arrays in labelled_examples(sizes).splits.items()}


def test_arrays_of_a_split_that_disagree_in_length_are_an_error():
    splits = splits_of()
    splits["test"]["label"] = splits["test"]["label"][:-1]
    with pytest.raises(ValueError, match=r"'test' have lengths .*'label': 4.* one row per example"):
        LabelledExamples(splits)


def test_unknown_split_is_an_error_with_a_suggestion():
    with pytest.raises(ValueError, match="split 'tests' is not known; did you mean 'test'"):
        LabelledExamples({**splits_of(), "tests": {}})


@pytest.mark.parametrize("name", SPLITS)
def test_missing_split_is_an_error_that_names_it(name):
    splits = splits_of()
    del splits[name]
    with pytest.raises(ValueError, match=f"{name}' has .* needs arrays under the same keys"):
        LabelledExamples(splits)


def test_split_with_other_keys_is_an_error_that_names_it():
    splits = splits_of()
    del splits["outer_valid"]["label"]
    with pytest.raises(ValueError, match=r"'outer_valid' has \['image'\] and 'train' has"):
        LabelledExamples(splits)


@pytest.mark.parametrize("name", SPLITS)
def test_empty_split_is_an_error_that_names_it(name):
    splits = splits_of()
    splits[name] = {key: array[:0] for key, array in splits[name].items()}
    with pytest.raises(ValueError, match=f"split '{name}' has no examples; pass more data"):
        LabelledExamples(splits)


def test_splits_without_arrays_are_an_error():
    with pytest.raises(ValueError, match="'train' have lengths {}"):
        LabelledExamples({name: {} for name in SPLITS})


def test_training_split_smaller_than_a_batch_is_an_error_and_a_held_out_one_is_drawn_whole():
    examples = numbered_examples((12, 4, 3, 5))
    with pytest.raises(ValueError, match="12 examples .* batch_size=13; pass batch_size=12"):
        examples.sampler("train", 0, 13, seed=0)
    for name, size in zip(SPLITS[1:], (4, 3, 5), strict=True):
        sampler = examples.sampler(name, 100, 13, seed=0)
        np.testing.assert_array_equal(np.sort(next(sampler)), np.arange(100, 100 + size))


def test_examples_are_taken_at_the_positions_whatever_their_shape():
    examples = labelled_examples(shape=(2, 3, 1))
    arrays = examples.splits["train"]
    positions = np.asarray([[3, 3, 0], [11, 5, 2]])
    taken = examples.take(arrays, positions)
    assert taken["image"].shape == (2, 3, 2, 3, 1)
    for i in range(2):
        for j in range(3):
            where = positions[i, j]
            np.testing.assert_array_equal(taken["image"][i, j], arrays["image"][where])
            assert taken["label"][i, j] == arrays["label"][where]


def test_all_positions_of_labelled_examples_are_each_once():
    np.testing.assert_array_equal(numbered_examples().all_positions("test"), np.arange(5))


def test_windows_are_taken_byte_by_byte():
    windows = text_windows(length=4)
    text = windows.splits["train"]["text"]
    positions = np.asarray([[0, 7], [55, 7]], np.int32)
    taken = windows.take(windows.splits["train"], positions)["text"]
    assert (taken.shape, taken.dtype) == ((2, 2, 5), np.uint8)
    for i in range(2):
        for j in range(2):
            expected = [text[positions[i, j] + k] for k in range(5)]
            np.testing.assert_array_equal(taken[i, j], expected)


@pytest.mark.parametrize("kind", [DeviceDatasets, StreamDatasets])
def test_windows_reach_both_ends_of_their_split_and_do_not_cross_into_the_next(kind):
    sizes = (7, 6, 9, 8)
    texts = {
        name: np.arange(50 * number, 50 * number + size).astype(np.uint8)
        for number, (name, size) in enumerate(zip(SPLITS, sizes, strict=True))
    }
    datasets = kind(TextWindows(texts, length=4), batch_size=40)
    for number, (name, size) in enumerate(zip(SPLITS, sizes, strict=True)):
        drawn = np.asarray(datasets.gather(next(datasets.split(name)))["text"])
        starts = sorted(set(drawn[:, 0] - 50 * number))
        assert starts == list(range(size - 4))
        assert (drawn == drawn[:, :1] + np.arange(5, dtype=np.uint8)).all()


@pytest.mark.parametrize("size", [5, 6, 8, 9, 10, 13, 30])
def test_all_positions_of_a_text_predict_its_bytes_once_as_far_as_windows_go(size):
    windows = text_windows((size, 5, 5, 5), length=4)
    positions = windows.all_positions("train")
    predicted = [position + k for position in positions for k in range(1, 5)]
    assert predicted == list(range(1, 1 + len(predicted)))
    assert size - 4 <= 1 + len(predicted) <= size


@pytest.mark.parametrize("name", SPLITS)
def test_text_without_a_window_is_an_error_that_names_the_split(name):
    texts = {split: np.zeros(20, np.uint8) for split in SPLITS}
    texts[name] = np.zeros(4, np.uint8)
    with pytest.raises(
        ValueError, match=f"'{name}' has 4 bytes .* length=4 and one more; pass a longer text"
    ):
        TextWindows(texts, length=4)
    TextWindows(texts, length=3)


def test_windows_of_no_bytes_are_an_error():
    with pytest.raises(ValueError, match="length=0: .* at least 1; pass length=1 or more"):
        text_windows(length=0)
