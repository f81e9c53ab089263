"""Batches of a round."""

import jax
import numpy as np
import pytest
from small_data import labelled_examples, text_windows
from small_tasks import assert_trees_equal, host_datasets

from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.examples import SPLITS
from comm_lopt.data.feeding.partition import IIDParts
from comm_lopt.data.feeding.rounds import RoundIterator, round_datasets
from comm_lopt.data.feeding.samplers import IndexSampler
from comm_lopt.data.feeding.streams import StreamDatasets
from comm_lopt.upstream import Datasets

SHARED = {
    "indices": lambda: DeviceDatasets(labelled_examples(), 3, seed=3).train,
    "positions": lambda: DeviceDatasets(text_windows(), 3, seed=3).train,
    "streamed examples": lambda: StreamDatasets(labelled_examples(), 3, seed=3).train,
    "streamed text": lambda: StreamDatasets(text_windows(), 3, seed=3).train,
}
every_source = pytest.mark.parametrize(
    "source",
    [*SHARED.values(), *(lambda make=make: make().shards(2, seed=0) for make in SHARED.values())],
    ids=[*SHARED, *(f"parts of {name}" for name in SHARED)],
)


def test_round_of_indices_is_the_next_batches_worker_by_worker():
    rounds = RoundIterator(IndexSampler(np.arange(23), 5, seed=3), 2, 3)
    plain = IndexSampler(np.arange(23), 5, seed=3)
    for _ in range(3):
        batch = next(rounds)
        assert (batch.shape, batch.dtype) == ((2, 3, 5), np.int32)
        for k in range(2):
            for h in range(3):
                np.testing.assert_array_equal(batch[k, h], next(plain))


@pytest.mark.parametrize("name", SHARED)
def test_round_of_a_shared_source_is_its_next_batches_worker_by_worker(name):
    rounds, plain = RoundIterator(SHARED[name](), 2, 3), SHARED[name]()
    for _ in range(3):
        batch = next(rounds)
        for k in range(2):
            for h in range(3):
                one = jax.tree.map(lambda leaf, k=k, h=h: leaf[k, h], batch)
                assert_trees_equal(one, next(plain))


@pytest.mark.parametrize("name", SHARED)
def test_round_of_parts_is_the_next_batches_of_each_worker(name):
    rounds = RoundIterator(SHARED[name]().shards(2, seed=0), 2, 3)
    plain = SHARED[name]().shards(2, seed=0)
    for _ in range(3):
        batch = next(rounds)
        for k in range(2):
            for h in range(3):
                one = jax.tree.map(lambda leaf, k=k, h=h: leaf[k, h], batch)
                assert_trees_equal(one, next(plain[k]))


@every_source
def test_rounds_can_be_asked_for_by_number_in_any_order(source):
    iterating, asked = RoundIterator(source(), 2, 3), RoundIterator(source(), 2, 3)
    expected = [next(iterating) for _ in range(6)]
    for number in (4, 0, 5, 5, 2, 1, 3):
        assert_trees_equal(asked.round(number), expected[number])
    assert asked.can_seek
    assert asked.state == 0


@every_source
def test_state_may_be_set_forwards_and_backwards(source):
    rounds = RoundIterator(source(), 2, 3)
    expected = [rounds.round(number) for number in range(8)]
    for state in (0, 5, 1, 2, 7, 0):
        rounds.state = state
        for number in range(state, min(state + 2, 8)):
            assert_trees_equal(next(rounds), expected[number])
            assert rounds.state == number + 1


@every_source
def test_reseeded_rounds_start_anew_in_the_order_of_the_seed(source):
    rounds = RoundIterator(source(), 2, 3)
    before = [next(rounds) for _ in range(2)]
    same, other, again = rounds.reseeded(3), rounds.reseeded(4), rounds.reseeded(4).reseeded(3)
    assert rounds.state == 2
    assert same.state == other.state == 0
    found = [[next(one) for _ in range(2)] for one in (same, other, again)]
    assert_trees_equal(found[2], found[0])
    last = [jax.tree.leaves(two)[-1] for two in (before, *found[:2])]
    assert all(not np.array_equal(last[a], last[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert_trees_equal(next(rounds), rounds.round(2))


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("divided", [False, True])
def test_reading_ahead_changes_no_number(name, divided):
    source = SHARED[name]()
    rounds = RoundIterator(source.shards(2, seed=0) if divided else source, 2, 3)
    for number in range(80):
        assert_trees_equal(next(rounds), rounds.round(number))


def host_batch(split, i):
    return {"x": np.full((4, 3), 100 * split + i, np.float32), "y": np.asarray([i], np.int32)}


def test_round_of_host_batches_is_the_next_batches_worker_by_worker():
    rounds = RoundIterator(host_datasets(host_batch).test, 2, 3)
    next(rounds)
    batch = next(rounds)
    assert batch["x"].shape == (2, 3, 4, 3)
    assert batch["y"].shape == (2, 3, 1)
    np.testing.assert_array_equal(batch["x"][..., 0, 0], [[306, 307, 308], [309, 310, 311]])
    np.testing.assert_array_equal(batch["y"][..., 0], [[6, 7, 8], [9, 10, 11]])
    assert not rounds.can_seek


def test_reseeded_host_batches_go_on_where_they_stand():
    rounds = RoundIterator(host_datasets(host_batch).train, 1, 2)
    next(rounds)
    np.testing.assert_array_equal(next(rounds.reseeded(5))["y"], [[[2], [3]]])


def test_every_split_of_round_datasets_has_the_shape_of_a_round():
    inner = DeviceDatasets(labelled_examples((40, 4, 3, 5)), 3, extra_info={"num_classes": 10})
    rounds = round_datasets(inner, 3, 2)
    for name in SPLITS:
        batch = next(rounds.split(name))
        assert batch.shape == (3, 2, 3)
        assert set(batch.ravel()) <= set(inner.indices_of(name))
    assert rounds.abstract_batch == jax.ShapeDtypeStruct((3, 2, 3), np.dtype(np.int32))
    assert rounds.extra_info["num_classes"] == 10


@pytest.mark.parametrize("partition", [None, IIDParts()])
def test_abstract_batch_of_streamed_rounds_is_the_shape_of_a_round(partition):
    rounds = round_datasets(StreamDatasets(labelled_examples(), 3), 3, 2, partition)
    batch = next(rounds.train)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
    assert rounds.abstract_batch == shapes
    assert batch["image"].shape == (3, 2, 3, 2, 2, 1)


def test_no_data_stays_no_data():
    assert round_datasets(None, 3, 2) is None


def test_data_without_an_abstract_batch_stays_without():
    rounds = round_datasets(host_datasets(host_batch), 3, 2)
    assert isinstance(rounds, Datasets)
    assert rounds.abstract_batch is None
