"""Batch i is a function of the seed and of i alone, whoever asks for it and when."""

import concurrent.futures
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from comm_lopt.data.feeding.samplers import IndexSampler, WindowSampler


def index_sampler(first, size, batch_size, seed):
    return IndexSampler(np.arange(first, first + size), batch_size, seed)


def window_sampler(first, size, batch_size, seed):
    return WindowSampler(first, first + size, batch_size, seed)


both_kinds = pytest.mark.parametrize("make", [index_sampler, window_sampler])


@both_kinds
def test_batches_asked_for_in_any_order_are_those_of_iterating(make):
    iterating = make(10, 23, 5, seed=3)
    expected = np.stack([next(iterating) for _ in range(40)])
    asked = make(10, 23, 5, seed=3)
    rng = np.random.default_rng(0)
    for _ in range(60):
        first = int(rng.integers(0, 40))
        count = int(rng.integers(1, 41 - first))
        found = asked.batches(first, count)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, expected[first : first + count])
    assert asked.state == 0


@pytest.mark.parametrize(("make", "num_calls"), [(index_sampler, 5000), (window_sampler, 400)])
def test_threads_that_ask_at_once_get_what_one_alone_gets(make, num_calls):
    shared, alone = make(0, 23, 5, seed=3), make(0, 23, 5, seed=3)
    asked = [(i * 7 % 200, 1 + i % 9) for i in range(num_calls)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda which: shared.batches(*which), asked))
    finally:
        sys.setswitchinterval(interval)
    for which, batches in zip(asked, found, strict=True):
        np.testing.assert_array_equal(batches, alone.batches(*which))


@both_kinds
@pytest.mark.parametrize("num_batches", [1, 4, 5, 11])
def test_take_is_as_many_calls_of_next(make, num_batches):
    taking, calling = make(0, 23, 5, seed=3), make(0, 23, 5, seed=3)
    next(taking), next(calling)
    taken = taking.take(num_batches)
    assert taken.shape == (num_batches, 5)
    np.testing.assert_array_equal(taken, [next(calling) for _ in range(num_batches)])
    np.testing.assert_array_equal(next(taking), next(calling))


@both_kinds
def test_state_is_the_position_and_restores_the_very_next_batch(make):
    sampler = make(0, 23, 5, seed=3)
    sampler.take(6)
    restored = make(0, 23, 5, seed=3)
    restored.state = sampler.state
    np.testing.assert_array_equal(restored.take(7), sampler.take(7))
    assert sampler.state == restored.state == 13


@both_kinds
def test_order_is_a_function_of_the_seed(make):
    one, same, other = (make(0, 50, 5, seed).take(10) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@both_kinds
def test_splits_of_one_seed_are_drawn_differently(make):
    train, test = make(0, 50, 5, seed=0).take(10), make(50, 50, 5, seed=0).take(10)
    assert not np.array_equal(train, test - 50)


@both_kinds
def test_reseeded_sampler_starts_anew_and_leaves_the_first_alone(make):
    sampler = make(9, 23, 5, seed=3)
    sampler.take(6)
    reseeded = sampler.reseeded(8, 1)
    np.testing.assert_array_equal(reseeded.take(9), make(9, 23, 5, 3).reseeded(8, 1).take(9))
    np.testing.assert_array_equal(
        sampler.reseeded(8).reseeded(8, 1).take(9), reseeded.batches(0, 9)
    )
    assert sampler.state == 6


@both_kinds
def test_every_seed_and_every_use_has_an_order_of_its_own(make):
    samplers = [make(0, 50, 5, seed) for seed in range(3)]
    uses = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1), (2**40,)]
    orders = [s.reseeded(*use).take(20).tobytes() for s in samplers for use in uses]
    assert len(set(orders)) == len(orders)


@both_kinds
def test_parts_of_a_reseeded_sampler_are_those_of_the_sampler_reseeded(make):
    parts = make(0, 40, 4, seed=1).reseeded(7).shards(2, seed=5)
    others = make(0, 40, 4, seed=1).shards(2, seed=5)
    for part, other in zip(parts, others, strict=True):
        np.testing.assert_array_equal(part.take(9), other.reseeded(7).take(9))


@both_kinds
def test_seed_below_0_is_an_error(make):
    with pytest.raises(ValueError, match=r"seed=-1 lies outside \[0, inf\]"):
        make(0, 23, 5, seed=-1)
    with pytest.raises(ValueError, match="seed=-2"):
        make(0, 23, 5, seed=1).reseeded(0, -2)


@both_kinds
def test_batch_of_nothing_is_an_error(make):
    with pytest.raises(ValueError, match="batch_size=0: .* at least 1; pass batch_size=1 or more"):
        make(0, 4, 0, seed=0)


@both_kinds
def test_batch_size_that_is_no_integer_is_an_error(make):
    with pytest.raises(TypeError, match=r"batch_size=2\.5"):
        make(0, 4, 2.5, seed=0)


def test_an_epoch_shows_each_example_at_most_once_and_all_that_fit():
    sampler = index_sampler(100, 23, 5, seed=1)
    for _ in range(3):
        epoch = sampler.take(4)
        assert epoch.dtype == np.int32
        assert len(np.unique(epoch)) == 20
        assert epoch.min() >= 100
        assert epoch.max() < 123


def test_an_epoch_that_batches_divide_is_a_new_permutation_each_time():
    sampler = index_sampler(7, 20, 5, seed=1)
    first, second = sampler.take(4).ravel(), sampler.take(4).ravel()
    for epoch in (first, second):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(7, 27))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.arange(7, 27))


def test_what_an_epoch_leaves_out_comes_in_another():
    drawn = index_sampler(0, 23, 5, seed=1).take(4 * 20)
    np.testing.assert_array_equal(np.unique(drawn), np.arange(23))


def test_indices_may_be_any_and_an_epoch_shows_each_of_them_once():
    indices = np.asarray([8, 3, 40, 11, 5, 9])
    epoch = IndexSampler(indices, 2, seed=1).take(3)
    np.testing.assert_array_equal(np.sort(epoch.ravel()), np.sort(indices))


def test_of_some_positions_draws_from_those_indices_only():
    sampler = index_sampler(100, 23, 5, seed=1).of(np.asarray([0, 2, 3, 7, 22]))
    assert sampler.size == 5
    np.testing.assert_array_equal(np.sort(next(sampler)), [100, 102, 103, 107, 122])


def test_windows_cannot_be_narrowed_to_some_positions():
    with pytest.raises(TypeError, match="WindowSampler cannot draw from a list of positions"):
        window_sampler(0, 23, 5, seed=1).of(np.arange(3))


@pytest.mark.parametrize(("size", "num_shards"), [(23, 4), (24, 4), (30, 1), (31, 7)])
def test_shards_of_indices_are_disjoint_complete_and_equal_up_to_one(size, num_shards):
    sampler = index_sampler(100, size, 4, seed=1)
    shards = sampler.shards(num_shards, seed=5)
    sizes = [shard.size for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    together = np.concatenate([shard.indices for shard in shards])
    np.testing.assert_array_equal(np.sort(together), np.arange(100, 100 + size))
    for shard in shards:
        assert shard.batch_size == 4
        assert set(shard.take(20).ravel()) == set(shard.indices)


def test_shards_of_indices_are_a_function_of_their_seed():
    def shards(seed, order_seed=1):
        return [s.indices.tolist() for s in index_sampler(0, 20, 4, order_seed).shards(3, seed)]

    assert shards(5) == shards(5, order_seed=2)
    assert shards(5) != shards(6)
    assert shards(5)[0] != sorted(range(20))[:7]


@pytest.mark.parametrize(("size", "num_shards"), [(23, 4), (24, 4), (30, 1), (31, 7)])
def test_shards_of_windows_are_stretches_one_after_another(size, num_shards):
    shards = window_sampler(100, size, 4, seed=1).shards(num_shards, seed=5)
    seen = [np.unique(shard.take(100)) for shard in shards]
    np.testing.assert_array_equal(np.concatenate(seen), np.arange(100, 100 + size))
    assert [shard.size for shard in shards] == [len(positions) for positions in seen]
    sizes = [shard.size for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@both_kinds
def test_shards_draw_differently_from_one_another(make):
    one, other = make(0, 40, 4, seed=1).shards(2, seed=5)
    positions = [np.unique(shard.take(200)) for shard in (one, other)]
    ranks = [
        np.searchsorted(where, shard.batches(0, 5))
        for where, shard in zip(positions, (one, other), strict=True)
    ]
    assert not np.array_equal(*ranks)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (4, r"4 examples is smaller than one batch of batch_size=5; pass batch_size=4 or less"),
        (0, r"0 examples is smaller than one batch of batch_size=5"),
    ],
)
def test_fewer_indices_than_a_batch_is_an_error_that_says_what_fits(size, told):
    with pytest.raises(ValueError, match=told):
        index_sampler(0, size, 5, seed=0)


def test_no_position_for_a_window_is_an_error():
    with pytest.raises(ValueError, match="0 positions .* pass a longer text, a smaller length"):
        WindowSampler(7, 7, 5, seed=0)
    with pytest.raises(ValueError, match="0 positions .* or fewer workers"):
        WindowSampler(0, 3, 5, seed=0).shards(4, seed=0)


def test_windows_reach_the_first_and_the_last_position_and_none_beyond():
    drawn = WindowSampler(11, 17, 5, seed=0).take(100)
    np.testing.assert_array_equal(np.unique(drawn), np.arange(11, 17))


def test_windows_are_uniform():
    drawn = WindowSampler(0, 20, 50, seed=0).take(400).ravel()
    expected = len(drawn) / 20
    chi_squared = np.sum((np.bincount(drawn, minlength=20) - expected) ** 2 / expected)
    # Of 19 degrees of freedom: below 3 or above 60 has a probability of a millionth or so.
    assert 3 < chi_squared < 60


def test_windows_beyond_two_gigabytes_are_whole():
    border = 2**31
    below = WindowSampler(border - 9, border - 1, 8, seed=0).take(20)
    assert below.dtype == np.int32
    np.testing.assert_array_equal(np.unique(below), np.arange(border - 9, border - 1))
    across = WindowSampler(border - 4, border + 4, 8, seed=0).take(20)
    assert across.dtype == np.int64
    np.testing.assert_array_equal(np.unique(across), np.arange(border - 4, border + 4))
    far = WindowSampler(0, 2**40, 1000, seed=0).take(1)
    assert far.min() >= 0
    assert 0.95 * 2**40 < far.max() < 2**40


@pytest.mark.parametrize("kind", [np.uint32, np.asarray, jnp.asarray])
def test_seeds_of_every_library_give_the_same_order(kind):
    order = next(IndexSampler(np.arange(9), 5, 3))
    np.testing.assert_array_equal(next(IndexSampler(np.arange(9), kind(5), kind(3))), order)
