"""Meta-training by two processes: one theta, tasks of their own, stopped and resumed together."""

import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import small_run
from small_tasks import assert_trees_equal

import comm_lopt
from comm_lopt import upstream
from comm_lopt.cli.launch import free_port
from comm_lopt.data.feeding.as_arguments import data_as_arguments
from comm_lopt.data.feeding.positions import reseed

TESTS = pathlib.Path(__file__).resolve().parents[1]
STEPS = 4
STOPPED = 2

# Several runs, one after the other, by processes that are started once.
PROGRAM = """
import functools, os, pathlib, pickle, shutil, signal, sys, time
sys.path.insert(0, sys.argv.pop(1))
import gin, jax, jax.numpy as jnp, numpy as np
import small_run
from comm_lopt.cli import _parser
from comm_lopt.cli.several_processes import joined_as_told
from comm_lopt.meta_train import RunStopped, meta_train, run as run_module
from comm_lopt.meta_train.not_finite import WatchedEstimator
from comm_lopt.processes import ProcessError, gathered, require_same_weights

arguments = _parser().parse_args(sys.argv[1:])
root = pathlib.Path(arguments.train_log_dir)
told = {}
exchange, find_not_finite = run_module.exchange, run_module.find_not_finite
take_estimate = WatchedEstimator.take_estimate


def run(name, **more):
    gin.clear_config()
    small_run.load()
    return meta_train(root / name, progress=False, **more)[1]


def recorded(out, *rest):
    result = exchange(out, *rest)
    told["gradients"].append((out.theta_grads, result.out.theta_grads, out.mean_loss))
    return result


def at(call, do, before, *args):
    calls.append(args)
    return do(*args) if len(calls) == call and process == 1 else before(*args)


def stop(*args):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)  # It is read in a thread.
    return find_not_finite(*args)


def fail(*args):
    raise OSError("no such disk")


def not_a_number(estimator):
    loss, gradient, _ = take_estimate(estimator)
    return loss, jax.tree.map(lambda leaf: leaf * jnp.nan, gradient), None


with joined_as_told(arguments):
    process = jax.process_index()
    told["gathered"] = gathered({"a": np.float32([-0.0, process]), "n": 2 + process, "b": True})
    try:
        require_same_weights({"a": np.arange(3) + process}, "now", "what is compared")
    except ProcessError as error:
        told["different"] = str(error)

    told["gradients"] = []
    run_module.exchange = recorded
    told["theta"] = run("whole")
    run_module.exchange = exchange

    calls = []
    run_module.find_not_finite = functools.partial(at, 2, stop, find_not_finite)
    try:
        run("stopped")
    except RunStopped as error:
        told["stopped"] = str(error), error.signal_number
    run_module.find_not_finite = find_not_finite
    if process == 0:
        shutil.copytree(root / "stopped", root / "for_one")
    told["resumed"] = run("stopped", resume=True)
    told["joined_by_another"] = run("alone", resume=True)

    try:
        run("other", seed=process)
    except ProcessError as error:
        told["other"] = str(error)
    (root / f"{process}.pickle").write_bytes(pickle.dumps(jax.device_get(told)))

    # In meta-step n the first of these has the call 2 n, the second one 2 n - 1.
    calls = []
    WatchedEstimator.take_estimate = lambda *args: at(4, not_a_number, take_estimate, *args)
    run_module.find_not_finite = lambda *args: at(7, fail, find_not_finite, *args)
    run("left_alone")
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What both processes have found, how they ended and what they printed; and the folder."""
    root = tmp_path_factory.mktemp("two_processes")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        small_run.run(root / "alone", f"num_meta_steps = {STOPPED}")
    flags = ["--config_file", "unused.gin", "--train_log_dir", str(root), "--num_processes", "2"]
    flags += ["--coordinator_address", f"localhost:{free_port()}"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(TESTS), "meta-train", *flags, f"--process_id={n}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        for n in range(2)
    ]
    printed = [process.communicate(timeout=240)[1] for process in processes]
    found = []
    for number in range(2):
        path = root / f"{number}.pickle"
        assert path.exists(), printed[number]
        found.append(pickle.loads(path.read_bytes()))
    return root, found, [process.returncode for process in processes], printed


@pytest.fixture(scope="module")
def estimates():
    """(gradient, meta-loss) of the first meta-step of each process, computed in this one."""
    small_run.load()
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        data_as_arguments(),
    ):
        theta_key, estimator_key, unrolls_key, key = jax.random.split(jax.random.PRNGKey(0), 4)
        learner = upstream.configured_gradient_learner(STEPS)
        estimators = upstream.build_gradient_estimators(estimator_key, 1)
        weights = learner.get_state_for_worker(learner.init(theta_key))
        gradient_key = jax.random.split(key, 3)[1]
        found = []
        for process in range(2):
            keys = [unrolls_key, gradient_key]
            if process:
                keys = [jax.random.fold_in(key, 2**31 + process) for key in keys]
            reseed(upstream.task_family_of(estimators[0]).datasets, 0, process)
            (unroll_key,) = jax.random.split(keys[0], 1)
            unroll = estimators[0].init_worker_state(weights, unroll_key)
            out = upstream.gradient_worker_compute(
                weights, estimators, [unroll], keys[1], with_metrics=False
            ).to_put
            found.append((out.theta_grads, out.mean_loss))
    return found


def test_theta_moves_by_the_mean_of_what_each_process_would_estimate_alone(two, estimates):
    root, found, _, _ = two
    (first, first_loss), (second, second_loss) = estimates
    for process, (gradient, loss) in zip(found, estimates, strict=True):
        own, mean, own_loss = process["gradients"][0]
        assert_trees_equal(own, gradient)
        assert own_loss == loss
        expected = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), mean, expected)
    assert not np.array_equal(*map(np.concatenate, map(flat, (first, second))))
    row = small_run.rows(root / "whole")[0]
    assert float(row["meta_loss"]) == pytest.approx((first_loss + second_loss) / 2, rel=1e-6)


def flat(tree):
    return [np.ravel(leaf) for leaf in jax.tree.leaves(tree)]


def test_theta_is_the_same_bits_in_both(two):
    root, (first, second), _, _ = two
    for name in ("theta", "resumed", "joined_by_another"):
        assert_trees_equal(first[name], second[name])
    written = comm_lopt.load_theta(root / "whole" / "theta")[1]
    assert_trees_equal(written, second["theta"])


def test_every_bit_of_what_is_told_arrives(two):
    for found in two[1]:
        for process, tree in enumerate(found["gathered"]):
            np.testing.assert_array_equal(tree["a"], np.float32([0, process]))
            assert np.signbit(tree["a"][0]) and tree["n"] == 2 + process and tree["b"]


def test_what_differs_is_an_error_in_both(two):
    for found in two[1]:
        assert "now what is compared of the processes [1] are not those" in found["different"]
        assert "processes 0 and 1 are not of one run" in found["other"]
        assert 'seed: "0" in process 0, "1" in process 1' in found["other"]
    assert not (two[0] / "other").exists()


def test_a_signal_to_one_stops_both_after_the_same_meta_step_which_is_saved(two):
    root, found, _, printed = two
    for process in found:
        message, number = process["stopped"]
        assert number == signal.SIGTERM
        assert f"stopped after meta-step {STOPPED} of {STEPS}, which is saved" in message
    assert "SIGTERM: stops after" not in printed[0]
    assert small_run.checkpoint_steps(root / "for_one")[-1] == STOPPED


def test_two_go_on_as_if_they_had_never_been_stopped(two):
    root, found, _, _ = two
    for process in found:
        assert_trees_equal(process["resumed"], process["theta"])
    for name in ("metrics.csv", "skipped.csv"):
        assert small_run.rows(root / "stopped", name) == small_run.rows(root / "whole", name)


def test_one_goes_on_with_its_own_inner_problems_and_says_so(two, ordinary_promotion, capsys):
    root = two[0]
    before = small_run.rows(root / "for_one")
    small_run.run(root / "for_one", f"num_meta_steps = {STOPPED + 1}", resume=True)
    told = capsys.readouterr().err
    assert f"processes: 2 until now, 1 from meta-step {STOPPED} on" in told
    *same, last = small_run.rows(root / "for_one")
    assert same == before
    # Process 0 goes on with what it had, and theta is the same: so is its meta-loss.
    loss = two[1][0]["gradients"][STOPPED][2]
    assert float(last["meta_loss"]) == pytest.approx(float(loss), rel=1e-6)


def test_another_process_joins_a_run_of_one_and_says_so(two):
    root, _, _, printed = two
    assert f"processes: 1 until now, 2 from meta-step {STOPPED} on" in printed[0]
    assert "until now" not in printed[1]
    assert [row["meta_step"] for row in small_run.rows(root / "alone")] == list("1234")


def test_what_is_not_finite_in_one_is_applied_in_none_and_the_process_is_named(two):
    root, _, _, printed = two
    rows = small_run.rows(root / "left_alone")
    assert [row["skipped"] for row in rows] == ["0", "1", "1"]
    assert rows[1]["meta_loss"] == "nan"
    (place,) = small_run.rows(root / "left_alone", "skipped.csv")
    assert (place["meta_step"], place["process"], place["what"]) == ("2", "1", "meta-gradient")
    assert "meta-step 2 is not finite and not applied: meta-gradient of" in printed[0]
    assert "in process 1" in printed[0]


def test_a_process_that_fails_says_why_and_the_other_that_it_is_gone(two):
    root, _, codes, (first, second) = two
    assert codes == [7, 5], first
    assert second.splitlines()[-1] == "comm-lopt meta-train: no such disk"
    assert "comm-lopt meta-train: process 0: an exchange failed" in first
    assert "another process is gone" in first
    assert small_run.checkpoint_steps(root / "left_alone")[-1] == 3


def test_one_process_for_each_device_where_there_are_several(monkeypatch, ordinary_promotion):
    monkeypatch.setattr(small_run, "FILES", [*small_run.FILES, "several_devices.gin"])
    small_run.load("stack_antithetic_samples = False")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="there are 2 processes; leave it out"):
        upstream.build_gradient_estimators(jax.random.PRNGKey(0), 1)


@pytest.mark.slow
def test_ctrl_c_at_launch_stops_all_and_saves(tmp_path):
    """As at a terminal, where it comes to all processes that the command has started."""
    launched = ["-m", "comm_lopt", "launch", "-n", "2", "--cores_per_process", "1", "--"]
    process = small_run.start(
        tmp_path, "num_meta_steps = 100_000", launched=launched, start_new_session=True
    )
    while not any(small_run.checkpoint_steps(tmp_path)):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    status, printed = small_run.finish(process)
    assert status == 130, printed
    saved = small_run.checkpoint_steps(tmp_path)[-1]
    assert len(small_run.rows(tmp_path)) == saved
    for number in range(2):
        told = f"[{number}] comm-lopt meta-train: stopped after meta-step {saved} of 100000"
        assert told in printed
