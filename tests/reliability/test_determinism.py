"""The same seed gives the same bits, twice, in meta-training and in meta-testing."""

import numpy as np
from small_run import rows, run, theta_bytes

import comm_lopt
from comm_lopt import meta_test


def test_meta_training_twice_gives_the_same_bits(tmp_path):
    for name in ("one", "other"):
        run(tmp_path / name)
    run(tmp_path / "another_seed", seed=1)
    assert theta_bytes(tmp_path / "one") == theta_bytes(tmp_path / "other")
    assert rows(tmp_path / "one") == rows(tmp_path / "other")
    assert theta_bytes(tmp_path / "one") != theta_bytes(tmp_path / "another_seed")


def test_meta_testing_twice_gives_the_same_bits():
    def curves(seeds):
        datasets = comm_lopt.digits_datasets(batch_size=4)
        problem = meta_test.Problem(comm_lopt.digits_mlp(datasets=datasets), 2, 2, 6)
        return meta_test.run(problem, meta_test.hand_designed("SlowMo"), seeds)

    one, other, another = curves([0, 1]), curves([0, 1]), curves([2, 3])
    np.testing.assert_array_equal(one.train_loss, other.train_loss)
    np.testing.assert_array_equal(one.heldout_loss, other.heldout_loss)
    assert not np.array_equal(one.train_loss, another.train_loss)
