"""Data that stays on the host or in files, and reading it ahead."""

import threading
import time

import jax
import numpy as np
import pytest
from small_data import labelled_examples, text_windows
from small_tasks import assert_trees_equal

from comm_lopt.data.device import DeviceDatasets
from comm_lopt.data.examples import SPLITS, LabelledExamples, TextWindows
from comm_lopt.data.rounds import RoundIterator
from comm_lopt.data.streams import ReadAhead, StreamDatasets

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
        assert_trees_equal(shown, jax.vmap(device.gather)(device.heldout(split, 3, limit)))
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(shown))


@both_kinds
def test_gather_gives_the_batch_and_the_abstract_batch_is_its_shape(examples):
    datasets = StreamDatasets(examples, 4, extra_info={"num_classes": 3})
    batch = next(datasets.train)
    assert datasets.gather(batch) is batch
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
    assert datasets.abstract_batch == datasets.abstract_examples() == shapes
    assert datasets.extra_info["num_classes"] == 3


def test_reseeded_streams_are_those_of_the_other_seed():
    examples = labelled_examples()
    train = StreamDatasets(examples, 4, seed=7).train
    train.take(3)
    other = StreamDatasets(examples, 4, seed=8).train
    assert_trees_equal(train.reseeded(8).take(5), other.take(5))
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


class Recorder:
    """Makes item i, an array that holds i, and remembers the calls."""

    def __init__(self, num_bytes=4, fails_at=()):
        self.calls = []
        self.threads = set()
        self._num_bytes, self._fails_at = num_bytes, set(fails_at)

    def __call__(self, number):
        self.calls.append(number)
        self.threads.add(threading.get_ident())
        if number in self._fails_at:
            self._fails_at.remove(number)
            raise OSError(f"no item {number}")
        # Held in no memory, however many bytes it says it has.
        return {"number": np.broadcast_to(np.int32(number), (self._num_bytes // 4,))}

    def settled(self, num_calls):
        """The calls, once there are so many and no more come."""
        end = time.monotonic() + 10
        while len(self.calls) < num_calls and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(0.02)
        return list(self.calls)


def number(item):
    return int(item["number"][0])


def test_items_come_in_order_and_each_is_made_once():
    make = Recorder()
    ahead = ReadAhead(make)
    assert [number(next(ahead)) for _ in range(200)] == list(range(200))
    calls = make.settled(200)
    assert calls == list(range(len(calls)))


def test_items_are_made_before_they_are_asked_for_and_in_another_thread():
    make = Recorder()
    ahead = ReadAhead(make)
    next(ahead)
    assert make.settled(2) == [0, 1]
    next(ahead)
    assert set(make.settled(3)) > {0, 1}
    assert threading.get_ident() not in make.threads


def test_at_most_64_items_wait():
    make = Recorder()
    ahead = ReadAhead(make)
    for taken in range(1, 10):
        next(ahead)
        assert len(make.settled(0)) <= taken + 64
    assert len(make.settled(9 + 63)) == 9 + 63


@pytest.mark.parametrize(("num_bytes", "waiting"), [(2**26, 16), (2**29, 2), (2**32, 2)])
def test_about_a_gigabyte_waits_and_at_least_two_items(num_bytes, waiting):
    make = Recorder(num_bytes)
    ahead = ReadAhead(make)
    for _ in range(5):
        next(ahead)
    assert len(make.settled(5 + waiting - 1)) == 5 + waiting - 1


@pytest.mark.parametrize("target", [0, 2, 3, 4, 7, 50, 1000])
def test_seeking_goes_forwards_and_backwards(target):
    make = Recorder()
    ahead = ReadAhead(make)
    assert [number(next(ahead)) for _ in range(3)] == [0, 1, 2]
    ahead.seek(target)
    assert [number(next(ahead)) for _ in range(80)] == list(range(target, target + 80))


def test_seeking_before_the_first_item_makes_none_in_vain():
    make = Recorder()
    ahead = ReadAhead(make)
    ahead.seek(5)
    assert number(next(ahead)) == 5
    assert min(make.settled(2)) == 5


def test_failure_in_the_thread_reaches_who_asks_for_that_item_and_no_other():
    ahead = ReadAhead(Recorder(fails_at=[3]))
    assert [number(next(ahead)) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="no item 3"):
        next(ahead)
    assert [number(next(ahead)) for _ in range(3)] == [4, 5, 6]
    ahead.seek(3)
    assert number(next(ahead)) == 3


def test_round_that_could_not_be_read_is_tried_again(monkeypatch):
    examples = labelled_examples()
    failing = RoundIterator(StreamDatasets(examples, 2).train, 2, 1)
    whole = RoundIterator(StreamDatasets(labelled_examples(), 2).train, 2, 1)
    expected = [next(whole) for _ in range(6)]
    take, fails = examples.take, [4]

    def take_or_fail(arrays, positions):
        fails[0] -= 1
        if fails[0] == 0:
            raise OSError("the disk has gone")
        return take(arrays, positions)

    monkeypatch.setattr(examples, "take", take_or_fail)
    found = []
    for _ in range(7):
        try:
            found.append(next(failing))
        except OSError:
            assert failing.state == len(found) == 3
    assert_trees_equal(found, expected)
