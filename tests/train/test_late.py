"""Workers who are late: a round goes on without them, and they are told apart from the others."""

import csv
import io
import subprocess
import sys

import jax
import numpy as np
import pytest

import comm_lopt
from comm_lopt.cli.launch import launch
from comm_lopt.meta_test import Problem, run
from comm_lopt.meta_test.runs import start_run
from comm_lopt.train.late import Patience
from comm_lopt.train.programs import RoundPrograms
from comm_lopt.train.workers import WorkerDevices

GIN = """
include 'tasks/digits_mlp.gin'
digits_mlp.hidden_sizes = (8,)
num_workers = 4
num_local_steps = 3
num_rounds = 4
"""


class Texts(dict):
    """A board in one process."""

    post = dict.__setitem__
    read = dict.get

    def remove(self, name):
        self.pop(name, None)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_who_needs_more_than_the_first_and_max_wait_is_late():
    board, clocks = Texts(), (Clock(), Clock())
    first, second = (Patience(2.0, board, clock) for clock in clocks)
    clocks[1].now = 5.0  # Clocks need not agree.
    first.begin(7)
    second.begin(7)
    clocks[1].now += 50.0
    assert not second.is_late(), "nobody is done yet"
    clocks[0].now += 1.5
    first.done()
    assert second.is_late()
    second.begin(8)
    first.begin(8)
    clocks[0].now += 1.5
    first.done()
    clocks[1].now += 3.4
    assert not second.is_late()
    clocks[1].now += 0.2
    assert second.is_late()


def test_the_first_time_counts_and_old_rounds_are_removed():
    board, clock = Texts(), Clock()
    patience = Patience(0.0, board, clock)
    for number in range(5):
        patience.begin(number)
        clock.now += number
        patience.done()
        clock.now += 1.0
        patience.done()
    assert [float(text) for text in board.values()] == [3.0, 4.0]


def test_a_time_below_zero_is_an_error():
    with pytest.raises(ValueError, match="max_wait_s"):
        Patience(-1.0, Texts())


@pytest.fixture(scope="module")
def problem():
    datasets = comm_lopt.digits_datasets(batch_size=8)
    return Problem(comm_lopt.digits_mlp(datasets=datasets, hidden_sizes=(8,)), 2, 3, 6)


def trained(problem, method, patience):
    """Losses of the rounds, and the programs' run after them."""
    workers = WorkerDevices(problem.num_workers)
    programs = RoundPrograms(problem, method, workers, 0, patience)
    data = problem.rounds().reseeded(0)
    carry, losses = programs.start(), []
    for number in range(problem.num_rounds):
        examples = problem.task_family.datasets.on_host("train", next(data))
        batches = workers.sharded(examples)
        if number == 0:
            programs.compile(carry, batches)
        before = jax.tree.map(np.asarray, programs.params(carry)[0])
        work, present = programs.work(carry, number, batches)
        carry, report = programs.merge(carry, number, work, present=present)
        losses.append(report)
    return losses, before, programs.params(carry)[0]


def test_steps_one_by_one_are_those_of_the_simulation(problem, ordinary_promotion):
    method = comm_lopt.hand_designed("DiLoCo")
    reports, _, _ = trained(problem, method, Patience(60.0, Texts()))
    expected = run(problem, method, [0], evaluations="end").train_loss[0, 0]
    np.testing.assert_allclose([r.train_loss for r in reports], expected, rtol=1e-5)
    assert all(report.absent == [] for report in reports)


class LateInTheLastRound(Patience):
    """After one local step."""

    def is_late(self):
        return self._name.endswith("/5")


def test_a_round_without_anyone_changes_nothing(problem, ordinary_promotion):
    method = comm_lopt.hand_designed("LocalSGD", local_learning_rate=0.1)
    reports, before, after = trained(problem, method, LateInTheLastRound(0.0, Texts()))
    assert [report.absent for report in reports] == [[]] * 5 + [[0, 1]]
    assert (
        np.isnan(reports[-1].worker_losses).all() and not np.isnan(reports[-2].worker_losses).any()
    )
    jax.tree.map(np.testing.assert_array_equal, before, after)


SLOW = """
import sys, time
from comm_lopt.cli import main
from comm_lopt.train.late import Patience
ask = Patience.is_late
def ask_late(self):
    if "--process_id=1" in sys.argv and self._name.endswith("/1"):
        time.sleep(3.0)
    return ask(self)
Patience.is_late = ask_late
sys.exit(main(sys.argv[1:]))
"""


def test_a_slow_process_is_absent_from_its_round_alone(tmp_path, monkeypatch, ordinary_promotion):
    """Against a round with its workers masked."""
    path = tmp_path / "task.gin"
    path.write_text(GIN, encoding="utf-8")
    script = tmp_path / "slow.py"
    script.write_text(SLOW, encoding="utf-8")
    popen = subprocess.Popen

    def slow(arguments, **more):
        return popen([sys.executable, str(script), *arguments[3:]], **more)

    monkeypatch.setattr(subprocess, "Popen", slow)
    out = tmp_path / "run"
    flags = ["--config_file", str(path), "--optimizer", "LocalSGD:local_learning_rate=0.1"]
    command = ["train", *flags, "--out_dir", str(out), "--no_progress", "--max_wait_s", "1"]
    launch(command, 2, io.StringIO(), sys.stderr)
    with (out / "rounds.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["absent"] for row in rows] == ["", "2 3", "", ""]
    told = np.array([[float(row[f"loss_of_worker_{k}"]) for k in range(4)] for row in rows])
    np.testing.assert_allclose(float(rows[1]["train_loss"]), told[1, :2].mean(), rtol=1e-5)
    np.testing.assert_allclose(told, masked(path, [None, [1, 1, 0, 0], None, None]), rtol=1e-5)


def masked(path, masks):
    """Losses of the workers, [T, K], where some are absent from some rounds."""
    comm_lopt.load_config([str(path)])
    problem = comm_lopt.meta_test.meta_test_problem()
    method = comm_lopt.hand_designed("LocalSGD", local_learning_rate=0.1)
    family, opt = method.build(problem, {})
    key = jax.random.PRNGKey(0)
    cfg, state = start_run(family, opt, problem.num_rounds, key)
    task, data = family.task_fn(cfg), problem.rounds().reseeded(0)
    losses = []
    for number, mask in enumerate(masks):
        loss_key, _ = jax.random.split(jax.random.fold_in(jax.random.split(key, 4)[3], number))
        batches = problem.task_family.datasets.gather(next(data))
        params, _ = opt.get_params_state(state)
        work = task.work(params, None, loss_key, batches)
        shown = np.asarray(work.losses.mean(1))
        present = np.ones(4, np.float32) if mask is None else np.array(mask, np.float32)
        losses.append(np.where(present > 0, shown, np.nan))
        loss, _, delta = task.merge(params, None, loss_key, work, present)
        state = opt.update(state, delta, loss=loss)
    return np.array(losses)


def test_data_parallel_workers_have_no_steps_to_leave_off(problem):
    method = comm_lopt.hand_designed("DataParallelSGD", learning_rate=0.3)
    with pytest.raises(ValueError, match="no local steps that could be left off"):
        RoundPrograms(problem, method, WorkerDevices(2), 0, Patience(1.0, Texts()))


def test_a_rule_of_each_workers_delta_needs_all_of_them(problem):
    rule = comm_lopt.LAggA(num_workers=2)
    method = comm_lopt.learned(rule, rule.init(jax.random.PRNGKey(0)), "LAggA")
    with pytest.raises(ValueError, match="absent_workers=mean"):
        RoundPrograms(problem, method, WorkerDevices(2), 0, Patience(1.0, Texts()))
