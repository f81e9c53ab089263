"""Results: every number of a comparison, and what is read back."""

import csv
import dataclasses
import errno
import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from small_results import small_entry, small_results

from comm_lopt.data.sources.digits import digits_datasets
from comm_lopt.meta_test.check_results import LARGEST_NUM_ROUNDS, ResultsError
from comm_lopt.meta_test.problem import Problem
from comm_lopt.meta_test.results import make_results, read_results, rounds_to, write_results
from comm_lopt.meta_test.runs import BytesPerRound, Curves
from comm_lopt.methods import hand_designed
from comm_lopt.tasks.digits import digits_mlp

T, SEEDS = 40, np.asarray([7, 8, 9])


@pytest.fixture(scope="module")
def problem():
    return Problem(digits_mlp((4,), digits_datasets(batch_size=4)), 2, 2, T)


def curves_of(seed):
    rng = np.random.default_rng(seed)
    loss = rng.uniform(1.0, 2.0, (1, 3, T)).astype(np.float32)
    loss -= np.linspace(0, 1, T, dtype=np.float32)
    evaluated = [rng.uniform(size=(1, 3, 2)).astype(np.float32) for _ in range(3)]
    metrics = {"accuracy": evaluated[2]}
    rounds = np.asarray([20, T])
    return Curves(loss, rounds, *evaluated[:2], metrics, 0.5, BytesPerRound(10, 80))


@pytest.fixture
def runs():
    methods = {"LocalSGD": hand_designed("LocalSGD"), "cost<$5": hand_designed("SlowMo", "cost<$5")}
    return {label: (m, curves_of(i)) for i, (label, m) in enumerate(methods.items())}


def test_means_and_deviations_are_over_seeds(problem, runs):
    results = make_results(problem, SEEDS, runs)
    entry, curves = results["methods"]["cost<$5"], runs["cost<$5"][1]
    loss = curves.train_loss[0].astype(float)
    np.testing.assert_allclose(entry["train_loss"], loss.mean(0))
    np.testing.assert_allclose(entry["train_loss_std"], loss.std(0))
    # 5 % of 40 rounds are the last two.
    last = loss[:, -2:].mean(1)
    assert entry["final_train_loss"] == pytest.approx(last.mean())
    assert entry["final_train_loss_std"] == pytest.approx(last.std())
    at_weights = curves.loss_at_weights[0].astype(float)
    np.testing.assert_allclose(entry["loss_at_weights"], at_weights.mean(0))
    assert entry["final_loss_at_weights"] == pytest.approx(at_weights[:, -1].mean())
    assert entry["final_loss_at_weights_std"] == pytest.approx(at_weights[:, -1].std())
    heldout = curves.heldout_loss[0, :, -1].astype(float)
    accuracy = curves.heldout_metrics["accuracy"][0, :, -1].astype(float)
    assert entry["heldout"] == {
        "split": "test",
        "loss": pytest.approx(heldout.mean()),
        "loss_std": pytest.approx(heldout.std()),
        "accuracy": pytest.approx(accuracy.mean()),
        "accuracy_std": pytest.approx(accuracy.std()),
    }
    assert entry["bytes_sent_per_round_per_worker"] == 10
    assert entry["bytes_received_per_round_per_worker"] == 80
    assert results["evaluated_rounds"] == [20, T]


def test_results_say_on_what_with_what_and_when(problem, runs):
    results = make_results(problem, SEEDS, runs)
    assert results["problem"] == problem.describe()
    assert results["problem"]["task"] == "digits_mlp"
    assert results["seeds"] == [7, 8, 9] and results["format_version"] == 2
    assert results["versions"]["jax"] and results["date"].startswith("20")
    entry = results["methods"]["cost<$5"]
    assert (entry["optimizer"], entry["local_optimizer"]) == ("SlowMo", "local_sgd")
    assert set(entry["sources"].values()) == {"default"} and not entry["learned"]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("num_rounds", [1, 7, 40, 97, 1000])
def test_a_method_reaches_its_own_final_loss_by_the_last_round(problem, seed, num_rounds):
    rng = np.random.default_rng(seed)
    loss = np.exp(-np.linspace(0, 5, num_rounds)) + rng.normal(scale=1e-3, size=(3, num_rounds))
    loss = loss.astype(np.float32)[None]
    evaluated = [np.ones((1, 3, 1))] * 2
    curves = Curves(loss, np.asarray([num_rounds]), *evaluated, {}, 0.0, BytesPerRound(0, 0))
    method = hand_designed("LocalSGD", "mine")
    results = make_results(problem, SEEDS, {"mine": (method, curves)})
    assert list(results["targets"]) == ["final_loss_of_mine"]
    assert results["methods"]["mine"]["rounds_to"]["final_loss_of_mine"] <= num_rounds


def test_rounds_to_a_target_need_a_window_as_long_as_that_of_the_final_loss():
    loss = np.ones(100)
    loss[50:54] = 0.0  # Four low rounds of a window of five.
    loss[80:] = 0.0
    assert rounds_to(loss, 0.0) == 85
    assert rounds_to(loss, 0.2) == 54
    assert rounds_to(loss, -1.0) is None


def test_seed_that_diverged_is_named_and_its_losses_are_null(problem, runs):
    method, curves = runs["LocalSGD"]
    curves.train_loss[0, 1, -1] = np.inf
    results = make_results(problem, SEEDS, {"LocalSGD": (method, curves)})
    entry = results["methods"]["LocalSGD"]
    assert entry["diverged_seeds"] == [8]
    assert entry["final_train_loss"] is None and entry["final_train_loss_std"] is None
    assert results["targets"] == {"final_loss_of_LocalSGD": None}


def test_what_is_written_is_read_back_with_any_numbers_and_names(problem, runs, tmp_path):
    results = make_results(problem, SEEDS, runs, {"cost<$5": np.float32(0.5)})
    write_results(tmp_path, results, runs)
    assert read_results(tmp_path) == json.loads(json.dumps(results))
    with (tmp_path / "curves.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * T
    assert rows[19]["loss_at_weights"] == str(float(runs["LocalSGD"][1].loss_at_weights[0, 0, 0]))
    assert rows[0]["heldout_loss"] == "" and rows[-1]["method"] == "cost<$5"
    losses = [float(row["train_loss"]) for row in rows[: 3 * T]]
    np.testing.assert_array_equal(losses, runs["LocalSGD"][1].train_loss[0].ravel())


def odd_task(seed):
    """Curves of a task whose name and metrics nobody of us chose, some beyond float32."""
    curves = curves_of(seed)
    metrics = {"split": curves.heldout_loss, "loss": 0 * curves.heldout_loss, "x" * 400: 1e305}
    metrics = {k: np.broadcast_to(v, (1, 3, 2)) for k, v in metrics.items()}
    metrics["per_class"] = np.ones((1, 3, 2, 10))
    loss = curves.train_loss.astype(np.float64) * 1e303
    return dataclasses.replace(curves, train_loss=loss, heldout_metrics={**metrics, 5: loss})


@pytest.mark.filterwarnings("ignore:overflow")
def test_whatever_was_run_is_read_back(problem, runs, tmp_path, monkeypatch):
    monkeypatch.setattr(type(problem.task_family), "name", "a\nb" + "x" * 300)
    label = "l" * 200
    method = hand_designed("LocalSGD", label, local_clip_norm=np.float64("inf"))
    method = method.with_values("sweep " + "y" * 20_000, local_learning_rate=jnp.float32(0.5))
    rows = {label: (method, odd_task(0)), **runs}
    results = make_results(problem, SEEDS, rows, {"t" * 200: jnp.asarray(1e38), "far": 1e305})
    write_results(tmp_path, results, rows)
    read = read_results(tmp_path)
    assert read == json.loads(json.dumps(results))
    heldout = read["methods"][label]["heldout"]
    assert heldout["split"] == "test" and heldout["loss"] > 0 and "per_class" not in heldout
    assert read["targets"]["far"] is None and read["methods"][label]["hparams"]["local_clip_norm"]
    assert read["problem"]["task"].startswith(r"a\nbxx")


def test_results_of_the_longest_run_can_be_read(problem, tmp_path):
    """Its numbers, of the longest there are, would fill 60 MB with each on a line of its own."""
    numbers = [-1.2345678901234567e-100] * 100_000
    results = {**small_results({"x": small_entry(numbers)}), "note": "[1,  2]"}
    write_results(tmp_path, results, {})
    size = (tmp_path / "results.json").stat().st_size
    assert size * LARGEST_NUM_ROUNDS / len(numbers) < 2**26
    assert read_results(tmp_path) == results
    with pytest.raises(ValueError, match="num_rounds=1000001 lies outside"):
        dataclasses.replace(problem, num_rounds=LARGEST_NUM_ROUNDS + 1)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201])
def test_names_that_no_table_can_show_are_refused(problem, runs, name):
    with pytest.raises(ValueError, match="printable characters"):
        make_results(problem, SEEDS, runs, {name: 0.5})
    with pytest.raises(ValueError, match="printable characters"):
        make_results(problem, SEEDS, {name: runs["LocalSGD"]})


def test_results_are_there_even_if_curves_cannot_be_written(problem, runs, tmp_path):
    (tmp_path / "curves.csv").mkdir()
    with pytest.raises(OSError):
        write_results(tmp_path, make_results(problem, SEEDS, runs), runs)
    assert set(read_results(tmp_path)["methods"]) == set(runs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 1}, "format version 1 and this comm_lopt reads 2"),
        ({"format_version": 3}, "format version 3 and this comm_lopt reads 2"),
        ({"format_version": "2"}, "format version '2'"),
        ({"problem": {}}, "results.problem is .*; it must be an entry 'task'"),
        ({"methods": {"a": {}}}, r"results.methods.a is \[\]"),
        (
            {"methods": {"a": small_entry(bytes_sent_per_round_per_worker=-1)}},
            "worker is -1; it must be a count",
        ),
        ({"methods": {"a": small_entry(train_loss_std=[0.1])}}, "a deviation for each of one or"),
    ],
)
def test_results_of_another_format_are_refused(tmp_path, change, message):
    results = {**small_results({"LOptA": small_entry(learned=True)}), **change}
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    with pytest.raises(ResultsError, match=message):
        read_results(tmp_path)


def test_results_of_before_there_were_versions_say_so(tmp_path):
    (tmp_path / "results.json").write_text('{"task": "t", "optimizers": {}}', encoding="utf-8")
    with pytest.raises(ResultsError, match="format version 1 and this comm_lopt reads 2"):
        read_results(tmp_path)


def test_results_that_the_disk_does_not_give_are_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / "results.json").write_text("{}", encoding="utf-8")

    def failing(*args, **kwargs):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(pathlib.Path, "read_text", failing)
    with pytest.raises(OSError, match="Input/output error"):
        read_results(tmp_path)
