"""What comes next is made in a thread beforehand, and the thread ends with who asked."""

import gc
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from small_data import labelled_examples
from small_tasks import assert_trees_equal

from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.positions import close
from comm_lopt.data.feeding.read_ahead import ReadAhead
from comm_lopt.data.feeding.rounds import RoundIterator, round_datasets
from comm_lopt.data.feeding.streams import StreamDatasets


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


def test_as_many_wait_as_were_taken_and_at_least_two():
    make = Recorder()
    ahead = ReadAhead(make)
    for taken in range(1, 10):
        next(ahead)
        # Those that wait were asked for before this one was taken.
        assert len(make.settled(0)) == max(taken + 1, 2 * (taken - 1))


def test_a_burst_finds_all_its_items_made_by_the_second_time():
    make = Recorder()
    ahead = ReadAhead(make)
    for _ in range(2):
        for _ in range(40):
            next(ahead)
    assert len(make.settled(40 + 79 - 1)) >= 40 + 79 - 1


def test_at_most_1024_items_wait():
    make = Recorder()
    ahead = ReadAhead(make)
    for _ in range(1200):
        next(ahead)
    assert len(make.settled(1200 + 1023)) == 1200 + 1023


@pytest.mark.parametrize(("num_bytes", "waiting"), [(2**26, 16), (2**29, 2), (2**32, 2)])
def test_about_a_gigabyte_waits_and_at_least_two_items(num_bytes, waiting):
    make = Recorder(num_bytes)
    ahead = ReadAhead(make)
    for _ in range(20):
        next(ahead)
    assert len(make.settled(20 + waiting - 1)) == 20 + waiting - 1


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


def threads():
    return [t for t in threading.enumerate() if t.name == "read-ahead"]


def assert_ended(thread):
    thread.join(10)
    assert not thread.is_alive()


def started_by(iterator):
    """The thread that the iterator's first item starts."""
    before = set(threads())
    next(iterator)
    (thread,) = set(threads()) - before
    return thread


@pytest.mark.parametrize("kind", [DeviceDatasets, StreamDatasets])
def test_thread_ends_when_its_rounds_are_collected(kind):
    rounds = RoundIterator(kind(labelled_examples(), 2).train, 2, 1)
    thread = started_by(rounds)
    assert thread.daemon
    del rounds
    gc.collect()
    assert_ended(thread)


def test_closing_ends_the_threads_and_the_next_round_is_the_next():
    datasets = round_datasets(DeviceDatasets(labelled_examples(), 2), 2, 1)
    expected = [datasets.train.round(number) for number in range(4)]
    thread = started_by(datasets.train)
    close(datasets)
    assert_ended(thread)
    for number in range(1, 4):
        np.testing.assert_array_equal(next(datasets.train), expected[number])
    close(datasets)
    close(None)


def test_closed_iterator_has_no_more_items():
    ahead = ReadAhead(Recorder())
    next(ahead)
    ahead.close()
    assert list(ahead) == []


def test_process_ends_at_once_whatever_is_being_made():
    program = """
import time
from comm_lopt.data.feeding.read_ahead import ReadAhead
ahead = ReadAhead(lambda number: time.sleep(100 * min(number, 1)))
next(ahead)
print(time.time())
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=90
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert time.time() - float(found.stdout) < 20


def test_no_thread_starts_before_rounds_are_iterated():
    before = set(threads())
    RoundIterator(DeviceDatasets(labelled_examples(), 2).train, 2, 1).round(5)
    assert set(threads()) <= before
