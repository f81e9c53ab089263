"""What a meta-training run does with its data: orders of its own, arguments, threads that end."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def first_rounds(parts):
    return [np.asarray(next(family.datasets.train)) for family in parts.families]


def test_every_estimator_of_every_run_and_data_seed_sees_other_batches(begun, tmp_path):
    drawn = [
        begun(tmp_path, first_rounds, f"digits_datasets.seed = {own}", seed=seed, num_estimators=2)
        for own in (0, 1)
        for seed in (0, 1)
    ]
    bits = {batch.tobytes() for rounds in drawn for batch in rounds}
    assert len(bits) == 8
    again = begun(tmp_path, first_rounds, "digits_datasets.seed = 1", seed=1, num_estimators=2)
    np.testing.assert_array_equal(again, drawn[-1])


def test_every_seed_has_random_keys_of_its_own(begun, tmp_path):
    """Those of theta, of the inner problems and of the meta-steps."""
    keys = []
    for seed in (0, 1):
        begun(tmp_path, lambda parts: None, seed=seed)
        keys += begun.keys
    assert len({np.asarray(key).tobytes() for key in keys}) == 6


def test_a_run_that_ends_leaves_no_thread_of_its_data(begun, tmp_path):
    before = set(threading.enumerate())

    def draw(parts):
        first_rounds(parts)
        return set(threading.enumerate()) - before

    started = [t for t in begun(tmp_path, draw, num_estimators=2) if t.name == "read-ahead"]
    assert len(started) == 2
    for thread in started:
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="there programs hold the data")
def test_programs_of_a_run_take_the_data_as_an_argument(begun, tmp_path):
    def argument_bytes(parts):
        gather = parts.families[0].inner.datasets.gather
        program = jax.jit(lambda batch: jax.tree.map(jnp.sum, gather(batch)))
        return (
            program.lower(np.zeros(4, np.int32)).compile().memory_analysis().argument_size_in_bytes
        )

    # The images of the digits, all splits of them.
    assert begun(tmp_path, argument_bytes) > 1797 * 64
