"""Compressed deltas in a real run: they cross as they are, and losses are the simulation's."""

import os
import subprocess
import sys

import numpy as np
import pytest

import comm_lopt
from comm_lopt import Int8, TopK
from comm_lopt.long_runs.errors import ResumeError
from comm_lopt.meta_test import Problem
from comm_lopt.train import train

EIGHT = """
import sys
import comm_lopt, jax, numpy as np
from comm_lopt import Int8, TopK
from comm_lopt.meta_test import Problem
from comm_lopt.meta_test.runs import advance_run, chunks_of_rounds, start_run
from comm_lopt.train.programs import RoundPrograms
from comm_lopt.train.workers import WorkerDevices
assert jax.device_count() == 8
ROUNDS, KEY = 4, jax.random.PRNGKey(0)
datasets = comm_lopt.digits_datasets(batch_size=8)
family = comm_lopt.digits_mlp(datasets=datasets, hidden_sizes=(8,))
weights, devices = 64 * 8 + 8 + 8 * 10 + 10, 8
workers = WorkerDevices(devices)
entries = sum(round(0.1 * n) for n in (64 * 8, 8, 8 * 10, 10))

def learned(name, **hparams):
    rule = getattr(comm_lopt, name)(**hparams)
    return comm_lopt.learned(rule, rule.init(KEY), local_learning_rate=0.1)

cases = {
    "SlowMo int8": lambda: (comm_lopt.hand_designed("SlowMo"), Int8()),
    "SlowMo top-k": lambda: (comm_lopt.hand_designed("SlowMo"), TopK(0.1)),
    "LAggR int8": lambda: (learned("LAggR", hidden_size=4), Int8()),
    "LAggA int8": lambda: (learned("LAggA", num_workers=8, hidden_size=4), Int8()),
}
for name in sys.argv[1:]:
    method, compression = cases[name]()
    problem = Problem(family, devices, 2, ROUNDS, compression=compression)
    rounds = problem.rounds().reseeded(0)
    programs = RoundPrograms(problem, method, workers, 0)
    carry, losses = programs.start(), []
    residuals = carry[1].state.residuals
    for leaf in jax.tree.leaves(residuals.workers):
        assert leaf.addressable_shards[0].data.shape == (1, *leaf.shape[1:]), (name, leaf)
    for number in range(ROUNDS):
        batches = workers.sharded(datasets.on_host("train", rounds.round(number)))
        if not number:
            programs.compile(carry, batches)
        work, _ = programs.work(carry, number, batches)
        carry, report = programs.merge(carry, number, work)
        losses.append(report.train_loss)

    ours, opt = method.build(problem, {})
    _, batches = next(chunks_of_rounds([problem.rounds().reseeded(0)], [ROUNDS]))
    batches = jax.tree.map(lambda leaf: leaf[0], batches)
    start = start_run(ours, opt, ROUNDS, KEY)
    simulation = jax.jit(lambda carry, batches: advance_run(ours, opt, KEY, carry, 0, batches))
    _, simulated = simulation(start, batches)
    np.testing.assert_allclose(losses, simulated, rtol=1e-5, err_msg=name)

    work, merge = programs.collectives
    assert not work, (name, work)
    tell = lambda kind: sum(c.num_bytes for c in merge if c.kind == kind)
    if name == "SlowMo int8":
        # A device gets all K of its part as int8; what no device divides, of 10 weights, whole.
        # Back comes the mean of every part, as int8 too. All else are scales.
        assert weights - 10 <= tell("all-to-all") <= weights, merge
        assert weights - 10 <= tell("all-gather") - 8 * 10 <= weights + 8 * 4 * 4 + 100, merge
        assert tell("all-reduce") <= 100, merge
    elif name == "SlowMo top-k":
        # And the losses of the workers.
        assert tell("all-gather") == 8 * 8 * entries + 4 * 8, merge
        assert tell("all-to-all") == 0 and tell("all-reduce") <= 100, merge
    else:
        # The squares' mean, or LAggA's steps, of each part, as float32; all else as int8.
        assert weights - 10 <= tell("all-to-all") <= weights, merge
        assert tell("all-gather") + tell("all-reduce") <= 5 * weights + 1000, (name, merge)
print("compressed")
"""


@pytest.mark.parametrize(
    "names",
    [
        ("SlowMo int8", "SlowMo top-k"),
        pytest.param(("LAggR int8", "LAggA int8"), marks=pytest.mark.slow),
    ],
    ids=["mean", "statistics"],
)
def test_messages_cross_between_eight_devices_as_they_are_and_losses_are_the_simulations(names):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    result = subprocess.run(
        [sys.executable, "-c", EIGHT, *names],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "compressed" in result.stdout


def losses(folder):
    table = np.genfromtxt(folder / "rounds.csv", delimiter=",", names=True, encoding="utf-8")
    return table["train_loss"]


def test_a_run_goes_on_with_its_residuals_and_not_with_another_compression(
    tmp_path, ordinary_promotion
):
    small = comm_lopt.digits_mlp((4,), comm_lopt.digits_datasets(batch_size=4))
    method = comm_lopt.hand_designed("LocalSGD", local_learning_rate=0.3)

    def run(folder, num_rounds, compression=None, **more):
        problem = Problem(small, 2, 2, num_rounds, compression=compression or TopK(0.05))
        return train(problem, method, tmp_path / folder, progress=False, **more)

    whole = run("whole", 4)
    assert (whole.bytes_sent, whole.bytes_received) == (8 * 17, 2 * 8 * 17)
    run("cut", 2)
    with pytest.raises(ResumeError, match=r"TopK\(fraction=0.05\) there, Int8\(error_feedback"):
        run("cut", 4, Int8(), resume=True)
    run("cut", 4, resume=True)
    np.testing.assert_array_equal(losses(tmp_path / "cut"), losses(tmp_path / "whole"))
