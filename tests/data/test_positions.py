"""A resumed run goes on with the next round."""

import numpy as np
import pytest
from small_data import labelled_examples, text_windows
from small_tasks import assert_trees_equal, host_datasets

from comm_lopt.data.device import DeviceDatasets
from comm_lopt.data.examples import SPLITS
from comm_lopt.data.partition import DirichletParts, IIDParts
from comm_lopt.data.positions import positions, restore_positions
from comm_lopt.data.rounds import round_datasets
from comm_lopt.data.streams import StreamDatasets

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
