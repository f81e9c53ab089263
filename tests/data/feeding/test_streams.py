"""Data that stays on the host or in files."""

from typing import ClassVar

import jax
import numpy as np
import pytest
from small_data import labelled_examples, numbered_examples, text_windows
from small_tasks import assert_trees_equal

from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.examples import SPLITS, LabelledExamples, TextWindows
from comm_lopt.data.feeding.partition import IIDParts
from comm_lopt.data.feeding.rounds import round_datasets
from comm_lopt.data.feeding.streams import StreamDatasets

both_kinds = pytest.mark.parametrize("examples", [labelled_examples(), text_windows()])


@both_kinds
@pytest.mark.parametrize("split", SPLITS)
def test_batches_are_those_that_the_device_gathers_for_the_same_seed(examples, split):
    stream, device = StreamDatasets(examples, 4, seed=7), DeviceDatasets(examples, 4, seed=7)
    for _ in range(5):
        batch = next(stream.split(split))
        assert_trees_equal(batch, device.gather(next(device.split(split))))
        assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(batch))
    assert stream.split(split).state == 5


@both_kinds
def test_heldout_is_that_of_the_device(examples):
    stream, device = StreamDatasets(examples, 4), DeviceDatasets(examples, 4)
    for split, limit in (("test", None), ("test", 3), ("train", 7)):
        shown = stream.heldout(split, 3, limit)
        indices = device.heldout(split, 3, limit)
        assert_trees_equal(shown, [jax.vmap(device.gather)(stack) for stack in indices])
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(shown))
        assert list(map(stream.size_of, shown)) == list(map(device.size_of, indices))


@both_kinds
def test_gather_gives_the_batch_and_the_abstract_batch_is_its_shape(examples):
    datasets = StreamDatasets(examples, 4, extra_info={"num_classes": 3})
    batch = next(datasets.train)
    assert datasets.gather(batch) is batch
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
    assert datasets.abstract_batch == datasets.abstract_examples() == shapes
    assert datasets.extra_info["num_classes"] == 3


def test_reseeded_streams_are_what_the_device_gathers_for_that_use():
    examples = labelled_examples()
    train = StreamDatasets(examples, 4, seed=7).train
    train.take(3)
    device = DeviceDatasets(examples, 4, seed=7)
    indices = device.train.reseeded(8, 1).take(5)
    assert_trees_equal(train.reseeded(8, 1).take(5), jax.vmap(device.gather)(indices))
    assert train.state == 3


def mapped(tmp_path, arrays):
    for name, array in arrays.items():
        np.save(tmp_path / name, array)
    return {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in arrays}


def test_mapped_files_give_what_arrays_in_memory_give(tmp_path):
    in_memory = labelled_examples()
    splits = {}
    for name, arrays in in_memory.splits.items():
        (tmp_path / name).mkdir()
        splits[name] = mapped(tmp_path / name, arrays)
    in_files = LabelledExamples(splits)
    one, other = StreamDatasets(in_memory, 4), StreamDatasets(in_files, 4)
    assert_trees_equal(one.train.take(6), other.train.take(6))
    assert_trees_equal(one.heldout("test", 3, None), other.heldout("test", 3, None))
    assert isinstance(in_files.splits["train"]["image"], np.memmap)
    assert type(next(other.train)["image"]) is np.ndarray


class Watched(np.memmap):
    """Tells which rows are read."""

    read: ClassVar[list[np.ndarray]] = []

    def __getitem__(self, rows):
        self.read.append(np.ravel(rows))
        return np.asarray(super().__getitem__(rows))


@pytest.mark.parametrize("partition", [None, IIDParts()])
def test_of_a_file_the_batches_of_ones_own_workers_alone_are_read(partition, tmp_path):
    splits = dict(numbered_examples((40, 4, 3, 5)).splits)
    splits["train"] = {"number": mapped(tmp_path, splits["train"])["number"].view(Watched)}
    rounds = round_datasets(StreamDatasets(LabelledExamples(splits), 2), 4, 3, partition).train
    whole = rounds.round(1)["number"]
    Watched.read.clear()
    batches = rounds.of_workers(range(1, 3)).round(1)["number"]
    np.testing.assert_array_equal(batches, whole[1:3])
    read = np.concatenate(Watched.read)
    np.testing.assert_array_equal(np.sort(read), np.sort(batches.ravel()))


def test_windows_at_the_end_of_a_text_of_more_than_two_gigabytes_are_right(tmp_path):
    size, tail = 2**31 + 40, np.arange(1, 101, dtype=np.uint8)
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.seek(size - len(tail))
        file.write(tail.tobytes())
    text = np.memmap(path, np.uint8, "r")
    texts = {name: np.zeros(80, np.uint8) for name in SPLITS}
    datasets = StreamDatasets(TextWindows({**texts, "train": text}, length=64), 4)
    last = datasets.train
    for _ in range(4):
        last = last.shards(2**7, seed=0)[-1]
    assert last.size < 10
    batch = last.batches(0, 50)["text"]
    assert batch.shape == (50, 4, 65)
    np.testing.assert_array_equal(batch.max((0, 1)), np.arange(36, 101))


def test_training_split_smaller_than_a_batch_is_an_error_that_says_what_fits():
    with pytest.raises(
        ValueError, match="12 examples .* batch_size=13; pass batch_size=12 or less"
    ):
        StreamDatasets(labelled_examples(), 13)
