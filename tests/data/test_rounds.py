"""Batches of a round."""

import numpy as np
from small_tasks import host_datasets

from comm_lopt.data.device import IndexSampler
from comm_lopt.data.digits import digits_datasets
from comm_lopt.data.rounds import RoundIterator, round_datasets
from comm_lopt.upstream import Datasets


def test_round_of_indices_is_the_next_batches_worker_by_worker():
    rounds = RoundIterator(IndexSampler(0, 23, 5, seed=3), 2, 3)
    plain = IndexSampler(0, 23, 5, seed=3)
    for _ in range(3):
        batch = next(rounds)
        assert (batch.shape, batch.dtype) == ((2, 3, 5), np.int32)
        for k in range(2):
            for h in range(3):
                np.testing.assert_array_equal(batch[k, h], next(plain))


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


def test_every_split_of_round_datasets_has_the_shape_of_a_round():
    inner = digits_datasets(batch_size=16)
    rounds = round_datasets(inner, 3, 2)
    for name in ("train", "inner_valid", "outer_valid", "test"):
        batch = next(rounds.split(name))
        assert batch.shape == (3, 2, 16)
        assert set(batch.ravel()) <= set(inner.indices_of(name))
    assert rounds.abstract_batch.shape == (3, 2, 16)
    assert rounds.abstract_batch.dtype == np.int32
    assert rounds.extra_info["num_classes"] == 10


def test_no_data_stays_no_data():
    assert round_datasets(None, 3, 2) is None


def test_data_without_an_abstract_batch_stays_without():
    rounds = round_datasets(host_datasets(host_batch), 3, 2)
    assert isinstance(rounds, Datasets)
    assert rounds.abstract_batch is None
