"""The digest of a data set changes with what it holds, and with nothing else."""

import numpy as np
import pytest
from small_data import labelled_examples, text_windows

from comm_lopt.data.feeding import digest
from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.digest import digest_of_arrays
from comm_lopt.data.feeding.examples import SPLITS, LabelledExamples
from comm_lopt.data.feeding.streams import StreamDatasets


@pytest.mark.parametrize("make", [labelled_examples, text_windows])
def test_digest_is_that_of_the_content_however_it_is_held(make, tmp_path):
    expected = DeviceDatasets(make(), 2, seed=0).digest
    assert expected == DeviceDatasets(make(), 3, seed=1).digest == StreamDatasets(make(), 2).digest
    splits = make().splits
    for name in SPLITS:
        for key, array in splits[name].items():
            np.save(tmp_path / f"{name}.{key}.npy", array)
    in_files = {
        name: {key: np.load(tmp_path / f"{name}.{key}.npy", mmap_mode="r") for key in splits[name]}
        for name in reversed(SPLITS)
    }
    assert digest_of_arrays(in_files) == expected


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("key", ["image", "label"])
def test_one_value_of_any_split_changes_the_digest(split, key):
    changed = labelled_examples()
    changed.splits[split][key][-1] += 1
    assert digest_of_arrays(changed.splits) != digest_of_arrays(labelled_examples().splits)


def test_type_and_shape_change_the_digest():
    zeros = [np.zeros((4, 2), np.uint8), np.zeros((2, 4), np.uint8), np.zeros((4, 2), np.int8)]
    digests = {digest_of_arrays({"train": {"x": array}}) for array in zeros}
    digests.add(digest_of_arrays({"train": {"y": zeros[0]}}))
    digests.add(digest_of_arrays({"test": {"x": zeros[0]}}))
    assert len(digests) == 5


@pytest.mark.parametrize("row_size", [1, 3, 2**12])
def test_of_a_large_array_first_and_last_row_and_many_between_are_seen(row_size, monkeypatch):
    # A thousandth of the true sizes.
    monkeypatch.setattr(digest, "_WHOLE", 2**16)
    monkeypatch.setattr(digest, "_STRETCH", 2**10)
    length = 2**20 // row_size

    def digest_with(changed=None):
        array = np.zeros((length, row_size), np.uint8)
        if changed is not None:
            array[changed] = 1
        return digest_of_arrays({"train": {"x": array}})

    tenths = [slice(i * length // 10, (i + 1) * length // 10) for i in range(10)]
    others = {digest_with(changed) for changed in (0, -1, *tenths)}
    assert len(others | {digest_with()}) == 13
    # What lies between two stretches is not seen.
    assert row_size == 2**12 or digest_with(2**12 // row_size) == digest_with()


def test_digest_of_rows_that_are_not_contiguous_is_that_of_their_values():
    image = np.arange(48, dtype=np.uint8).reshape(12, 4)
    splits = {name: {"image": image[::2]} for name in SPLITS}
    copied = {name: {"image": image[::2].copy()} for name in SPLITS}
    assert DeviceDatasets(LabelledExamples(splits), 2).digest == digest_of_arrays(copied)
