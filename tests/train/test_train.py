"""A real run in one process: the losses of the simulation, and resumed as if never stopped."""

import csv
import os
import signal

import jax
import numpy as np
import pytest

import comm_lopt
from comm_lopt.long_runs.errors import ResumeError, RunStopped
from comm_lopt.meta_test import Problem, run
from comm_lopt.train import Link, train
from comm_lopt.train.log import TrainLog
from comm_lopt.train.workers import WorkerDevices

SEED = 3


@pytest.fixture(scope="module")
def family():
    return comm_lopt.digits_mlp(datasets=comm_lopt.digits_datasets(batch_size=8), hidden_sizes=(8,))


def problem_of(family, num_rounds=12, **more):
    return Problem(family, 4, 2, num_rounds, **more)


def rows(folder, name="rounds.csv"):
    with (folder / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def losses(folder):
    return np.array([float(row["train_loss"]) for row in rows(folder)])


def learned(name, **hparams):
    rule = getattr(comm_lopt, name)(**hparams)
    theta = rule.init(jax.random.PRNGKey(0))
    return comm_lopt.learned(rule, theta, name, local_learning_rate=0.1)


METHODS = {
    "SlowMo": lambda: comm_lopt.hand_designed("SlowMo", local_learning_rate=0.3),
    "DiLoCo": lambda: comm_lopt.hand_designed("DiLoCo"),
    "data-parallel": lambda: comm_lopt.hand_designed("DataParallelSGD", learning_rate=0.3),
    "LAggA": lambda: learned("LAggA", num_workers=4),
    "LAggR": lambda: learned("LAggR"),
}


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_those_of_the_simulation(family, method, tmp_path, ordinary_promotion):
    problem, method = problem_of(family), METHODS[method]()
    summary = train(problem, method, tmp_path, seed=SEED, progress=False, evaluate_every=4)
    simulated = run(problem, method, [SEED], evaluations="end")
    np.testing.assert_allclose(losses(tmp_path), simulated.train_loss[0, 0], rtol=1e-5)
    final = simulated.final_train_loss[0, 0]
    np.testing.assert_allclose(summary.final_train_loss, final, rtol=1e-5)
    last = summary.evaluation
    np.testing.assert_allclose(last["heldout_loss"], simulated.heldout_loss[0, 0, -1], rtol=1e-5)
    at_weights = simulated.loss_at_weights[0, 0, -1]
    np.testing.assert_allclose(last["loss_at_weights"], at_weights, rtol=1e-5)
    assert [int(row["round"]) for row in rows(tmp_path, "evaluations.csv")] == [4, 8, 12]
    of_workers = [[float(r[f"loss_of_worker_{k}"]) for k in range(4)] for r in rows(tmp_path)]
    np.testing.assert_allclose(np.mean(of_workers, 1), losses(tmp_path), rtol=1e-5)


@pytest.mark.parametrize("more", [{"participation": 0.5}, {"partition": comm_lopt.IIDParts()}])
def test_absent_workers_and_own_parts_are_as_in_the_simulation(
    family, more, tmp_path, ordinary_promotion
):
    problem, method = problem_of(family, **more), METHODS["LAggR"]()
    train(problem, method, tmp_path, seed=SEED, progress=False)
    expected = run(problem, method, [SEED], evaluations="end").train_loss[0, 0]
    np.testing.assert_allclose(losses(tmp_path), expected, rtol=1e-5)


def test_a_run_that_was_stopped_goes_on_as_if_it_never_was(
    family, tmp_path, monkeypatch, ordinary_promotion
):
    """Workers' Adam states and γ of a rule that steers it among what is kept."""
    method = METHODS["DiLoCo"]()
    train(problem_of(family), method, tmp_path / "whole", progress=False, checkpoint_every=5)
    sent = []

    def stop_at_round_7(self, row, *rest):
        if row["round"] == 7 and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        return write(self, row, *rest)

    write = TrainLog.write
    monkeypatch.setattr(TrainLog, "write", stop_at_round_7)
    with pytest.raises(RunStopped, match="stopped after round 8 of 12"):
        train(problem_of(family), method, tmp_path / "cut", progress=False, checkpoint_every=5)
    with pytest.raises(FileExistsError, match="holds another run"):
        train(problem_of(family), method, tmp_path / "cut", progress=False)
    train(problem_of(family), method, tmp_path / "cut", progress=False, resume=True)
    np.testing.assert_array_equal(losses(tmp_path / "cut"), losses(tmp_path / "whole"))
    assert len(losses(tmp_path / "cut")) == 12


def test_a_run_can_be_made_longer_and_no_other_run(family, tmp_path, ordinary_promotion):
    method = METHODS["SlowMo"]()
    train(problem_of(family, 4), method, tmp_path / "a", progress=False)
    train(problem_of(family, 6), method, tmp_path / "a", progress=False, resume=True)
    train(problem_of(family, 6), method, tmp_path / "b", progress=False)
    np.testing.assert_array_equal(losses(tmp_path / "a"), losses(tmp_path / "b"))
    others = {
        "seed: 0 there, 1 here": (problem_of(family, 6), method, 1),
        "method: ": (problem_of(family, 6), METHODS["DiLoCo"](), 0),
        "num_local_steps: 2 there, 3 here": (Problem(family, 4, 3, 6), method, 0),
        "num_workers: 4 there, 8 here": (Problem(family, 8, 2, 6), method, 0),
    }
    for told, (problem, other, seed) in others.items():
        with pytest.raises(ResumeError, match=told):
            train(problem, other, tmp_path / "a", seed=seed, progress=False, resume=True)


def test_merges_wait_for_a_throttled_link(family, tmp_path, ordinary_promotion):
    problem, method = problem_of(family, 4), METHODS["SlowMo"]()
    summary = train(problem, method, tmp_path, progress=False, throttle=Link(0.5))
    assert summary.bytes_sent == 4 * (64 * 8 + 8 + 8 * 10 + 10)
    assert summary.seconds_merging >= 4 * Link(0.5).seconds(summary.bytes_sent, 0)


def test_one_worker_in_place_of_many_is_refused(family, tmp_path):
    method = comm_lopt.hand_designed("SNOO")
    with pytest.raises(ValueError, match="trains with one worker and num_workers=4"):
        train(problem_of(family), method, tmp_path, progress=False)


def test_a_theta_of_another_number_of_workers_is_refused(family, tmp_path):
    with pytest.raises(ValueError, match=r"num_workers=4.*num_workers=\s*8.*meta-train another"):
        train(Problem(family, 8, 2, 12), METHODS["LAggA"](), tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_each_process_reads_the_batches_of_its_own_workers():
    datasets = comm_lopt.digits_datasets(batch_size=8)
    whole = Problem(comm_lopt.digits_mlp(datasets=datasets), 4, 2, 5).rounds().reseeded(1)
    part = whole.of_workers(range(2, 4))
    next(part)
    np.testing.assert_array_equal(next(part), whole.round(1)[2:])
    examples = datasets.on_host("train", whole.round(1))
    gathered = datasets.gather(whole.round(1))
    for name, array in examples.items():
        np.testing.assert_array_equal(array, gathered[name])
    assert datasets.gather(examples).keys() == examples.keys()


def test_workers_are_divided_among_devices():
    workers = WorkerDevices(3)
    assert workers.own == range(3) and workers.process_of(2) == 0
    tree = workers.sharded({"a": np.arange(6).reshape(3, 2)})
    np.testing.assert_array_equal(workers.to_host(tree)["a"], np.arange(6).reshape(3, 2))
