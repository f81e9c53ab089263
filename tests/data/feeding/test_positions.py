"""A resumed run goes on with the next round."""

import jax
import numpy as np
import pytest
from small_data import labelled_examples, text_windows
from small_tasks import assert_trees_equal, host_datasets

from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.examples import SPLITS
from comm_lopt.data.feeding.partition import DirichletParts, IIDParts
from comm_lopt.data.feeding.positions import positions, reseed, restore_positions
from comm_lopt.data.feeding.rounds import round_datasets
from comm_lopt.data.feeding.streams import StreamDatasets

CASES = [
    (DeviceDatasets, labelled_examples, None),
    (DeviceDatasets, labelled_examples, IIDParts()),
    (DeviceDatasets, text_windows, IIDParts()),
    (StreamDatasets, labelled_examples, None),
    (StreamDatasets, labelled_examples, DirichletParts(100.0)),
    (StreamDatasets, text_windows, None),
]


@pytest.mark.parametrize(("kind", "examples", "partition"), CASES)
def test_restored_positions_continue_with_the_very_next_round(kind, examples, partition):
    def fresh():
        return round_datasets(kind(examples(), 2, seed=3), 2, 3, partition)

    running = fresh()
    for name, num_rounds in zip(SPLITS, (5, 0, 1, 2), strict=True):
        for _ in range(num_rounds):
            next(running.split(name))
    saved = positions(running)
    assert saved == {"train": 5, "inner_valid": 0, "outer_valid": 1, "test": 2}
    resumed = fresh()
    next(resumed.train)
    restore_positions(resumed, saved)
    assert positions(resumed) == saved
    for name in SPLITS:
        for _ in range(3):
            assert_trees_equal(next(resumed.split(name)), next(running.split(name)))


@pytest.mark.parametrize(
    "datasets",
    [
        None,
        host_datasets(lambda split, i: np.zeros(3)),
        round_datasets(host_datasets(lambda split, i: np.zeros(3)), 2, 3),
    ],
    ids=["no data", "host batches", "rounds of host batches"],
)
def test_data_that_cannot_be_replayed_has_no_positions(datasets):
    assert positions(datasets) == {}
    restore_positions(datasets, {})


@pytest.mark.parametrize(("kind", "examples", "partition"), CASES)
def test_every_run_and_estimator_draws_in_an_order_of_its_own(kind, examples, partition):
    def rounds(seed, *use):
        datasets = round_datasets(kind(examples(), 2, seed=seed), 2, 3, partition)
        reseed(datasets, *use)
        return datasets

    # The seed of the data sets was 1: estimator 1 of any run once drew what estimator 0 did.
    uses = [(seed, *use) for seed in (0, 1) for use in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for name in SPLITS[:1] if partition is not None else SPLITS:
        drawn = [next(rounds(*use).split(name)) for use in uses]
        bits = {jax.tree.leaves(batch)[0].tobytes() for batch in drawn}
        assert len(bits) == len(uses)
    again = rounds(1, 0, 1)
    first = next(again.train)
    next(again.train)
    reseed(again, 0, 1)
    assert positions(again)["train"] == 0
    assert_trees_equal(next(again.train), first)
