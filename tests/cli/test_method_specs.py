"""What is compared, as it is written on the command line."""

import json
import math
import pathlib

import jax
import numpy as np
import pytest

import comm_lopt
from comm_lopt.cli.method_specs import method_of_spec, method_of_sweep, method_of_theta
from comm_lopt.data.sources.digits import digits_datasets
from comm_lopt.meta_test.check_results import ResultsError
from comm_lopt.meta_test.problem import Problem
from comm_lopt.meta_test.runs import BytesPerRound, Curves
from comm_lopt.meta_test.sweeps import SweepResult, grid_points
from comm_lopt.methods import hand_designed
from comm_lopt.tasks.digits import digits_mlp

pytestmark = pytest.mark.usefixtures("ordinary_promotion")

FAMILY = {"task": "t", "local_optimizer": "local_sgd", "local_learning_rate": 0.5}


def save(folder, *families, learned_opt=None, **trained_on):
    learned_opt = learned_opt or comm_lopt.LOptA(hidden_size=3)
    theta = learned_opt.init(jax.random.PRNGKey(0))
    told = {**trained_on, **({"families": list(families)} if families else {})}
    comm_lopt.save_theta(folder, learned_opt, theta, told)
    return str(folder)


def problem(num_workers=2, num_rounds=4, batch_size=4, **changes):
    family = digits_mlp((4,), digits_datasets(batch_size=batch_size))
    return Problem(family, num_workers, 2, num_rounds, **changes)


def write_sweep(folder, method, grid, tuned_on=None, seeds=(0, 1), best=0):
    """A sweep.json as a sweep writes it whose best point is the given one."""
    points = grid_points(grid)
    losses = np.arange(len(points), dtype=float)
    losses[best] = -1.0
    curves = Curves(*[np.zeros((len(points), len(seeds), 1))] * 4, {}, 0.0, BytesPerRound(0, 0))
    none = tuple(() for _ in points)
    result = SweepResult(tuned_on or problem(), method, seeds, grid, points, losses, none, curves)
    folder.mkdir(exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps(result.to_json()), encoding="utf-8")
    return str(folder)


def test_optimizer_has_a_label_values_and_a_local_optimizer():
    method = method_of_spec("fast=SlowMo:momentum=0.5,local_opt=local_adamw,local_b1=0.8")
    assert (method.label, method.optimizer, method.local_optimizer) == (
        "fast", "SlowMo", "local_adamw",
    )  # fmt: skip
    assert method.hparams["momentum"] == (0.5, "given")
    assert method.hparams["local_b1"] == (0.8, "given")
    assert method_of_spec("SlowMo").label == "SlowMo"
    assert method_of_spec("SlowMo:momentum=0.5").label == "SlowMo"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("True", True), ("None", None), ("3", 3), ("-1", -1)],
)
def test_values_are_numbers_truth_values_or_none(text, value):
    method = method_of_spec(f"LocalSGD:local_clip_norm={text}")
    found = method.values()["local_clip_norm"]
    assert found == value and type(found) is type(value)


def test_optimizer_of_optax_can_be_given():
    method = method_of_spec("optax.lion:learning_rate=0.1,local_opt=optax.adamw")
    assert method.values()["learning_rate"] == 0.1 and method.local_optimizer == "optax.adamw"


PLACES = [
    "theta", "runs_T06:12:00/theta", "lr=0.1/theta", "hidden=[256, 256]", "a:b=c/theta", "x:y=1",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("label", ["", "mine="])
@pytest.mark.parametrize("given", ["", ":local_learning_rate=0.3"])
def test_path_of_a_theta_may_hold_colons_and_equals_signs(
    tmp_path, monkeypatch, place, label, given
):
    monkeypatch.chdir(tmp_path)
    save(pathlib.Path(place), FAMILY)
    method = method_of_theta(label + place + given)
    assert method.label == (label.rstrip("=") or "LOptA")
    assert method.values()["local_learning_rate"] == (0.3 if given else 0.5)
    assert method.theta["path"] == str(tmp_path / place / "theta.safetensors")


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "theta", FAMILY)
    for spec in ("~/theta", "mine=~/theta"):
        assert method_of_theta(spec).theta["path"] == str(tmp_path / "theta" / "theta.safetensors")


@pytest.mark.parametrize(
    ("families", "rate", "source"),
    [
        ([FAMILY], 0.5, "theta's header"),
        ([FAMILY, {**FAMILY, "task": "u"}], 0.5, "theta's header"),
        (
            [{**FAMILY, "local_learning_rate": [0.1, 1.0]}],
            math.sqrt(0.1),
            "theta's header (middle of 0.1 to 1)",
        ),
    ],
)
def test_local_learning_rate_is_the_one_of_the_header(tmp_path, families, rate, source):
    hparam = method_of_theta(save(tmp_path, *families)).hparams["local_learning_rate"]
    assert hparam == (pytest.approx(rate), source)


def test_header_of_an_older_theta_is_read(tmp_path):
    spec = save(tmp_path, task="t", local_learning_rate=0.25)
    hparam = method_of_theta(spec).hparams["local_learning_rate"]
    assert hparam == (0.25, "theta's header")


@pytest.mark.parametrize(
    "families",
    [
        [FAMILY, {**FAMILY, "local_learning_rate": 0.1}],
        [FAMILY, {**FAMILY, "local_learning_rate": [0.1, 1.0]}],
        [{**FAMILY, "local_learning_rate": None}],
    ],
)
def test_header_without_one_local_learning_rate_asks_for_it(tmp_path, families):
    spec = save(tmp_path, *families)
    with pytest.raises(ValueError, match=r"needs a value of local_learning_rate .*header.*=0.1"):
        method_of_theta(spec).check(problem())
    method_of_theta(f"{spec}:local_learning_rate=0.2").check(problem())


def test_local_optimizer_is_the_one_of_the_header_unless_given(tmp_path):
    adamw = {**FAMILY, "local_optimizer": "local_adamw", "local_learning_rate": 0.01}
    spec = save(tmp_path / "a", adamw)
    assert method_of_theta(spec).local_optimizer == "local_adamw"
    other = method_of_theta(f"{spec}:local_opt=local_sgd")
    assert other.local_optimizer == "local_sgd"
    # A rate that was chosen for AdamW says nothing about SGD.
    assert other.hparams["local_learning_rate"] == (0.1, "default")
    with pytest.raises(ValueError, match="choose one, as in .*local_opt=local_sgd"):
        method_of_theta(save(tmp_path / "b", FAMILY, adamw))


def test_what_to_do_about_absent_workers_is_said_behind_the_theta(tmp_path):
    spec = save(tmp_path, FAMILY, learned_opt=comm_lopt.LAggA(2, hidden_size=3))
    some = problem(participation=0.5)
    with pytest.raises(ValueError, match="absent_workers=mean"):
        method_of_theta(spec).check(some)
    method_of_theta(f"{spec}:absent_workers=mean").check(some)


def test_tuned_method_has_the_best_values_and_says_where_from(tmp_path):
    method = hand_designed("SlowMo", "fast", local_weight_decay=0.01)
    path = write_sweep(tmp_path, method, {"momentum": (0.9, 0.5)}, best=1)
    tuned = method_of_sweep(path, problem(), (7, 8))
    assert tuned.label == "fast"
    assert tuned.hparams["momentum"] == (0.5, f"sweep {path}")
    assert tuned.hparams["local_weight_decay"] == (0.01, f"sweep {path}")
    assert tuned.hparams["slow_learning_rate"] == (1.0, "default")
    assert method_of_sweep(f"mine={path}", problem(), (7, 8)).label == "mine"


def test_values_of_a_sweep_stay_as_they_were_whatever_gin_says_now(tmp_path):
    path = write_sweep(tmp_path, hand_designed("SlowMo"), {"momentum": (0.9,)})
    comm_lopt.load_config([], ["local_sgd.learning_rate = 0.7"])
    try:
        tuned = method_of_sweep(path, problem(), (7,))
    finally:
        comm_lopt.load_config([])
    assert tuned.hparams["local_learning_rate"] == (0.1, f"sweep {path}")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"num_workers": 3}, "num_workers: 2 there, 3 here"),
        ({"num_rounds": 5}, "num_rounds: 4 there, 5 here"),
        ({"batch_size": 8}, "local_batch_size: 4 there, 8 here"),
        ({"heldout_split": "outer_valid"}, "heldout_split: test there, outer_valid here"),
        ({"participation": 0.5}, "participation: None there, 0.5 here"),
        ({"partition": comm_lopt.IIDParts()}, r"partition: None there, IIDParts\(seed=0\) here"),
    ],
)
def test_sweep_of_another_problem_is_refused_and_says_what_differs(tmp_path, other, told):
    path = write_sweep(tmp_path, hand_designed("SlowMo"), {"momentum": (0.9,)})
    with pytest.raises(ValueError, match=f"(?s)tuned on another problem.*{told}"):
        method_of_sweep(path, problem(**other), (7, 8))


def test_sweep_of_another_task_is_refused_by_its_gin_settings(tmp_path):
    flags = ["tasks/digits_mlp.gin"], ["num_rounds = 4", "num_workers = 2"]
    try:
        comm_lopt.load_config(*flags)
        tuned_on = comm_lopt.meta_test.meta_test_problem()
        settings = tuned_on.describe()["settings"]
        path = write_sweep(tmp_path, hand_designed("SlowMo"), {"momentum": (0.9,)}, tuned_on)
        method_of_sweep(path, comm_lopt.meta_test.meta_test_problem(), (7,))
        comm_lopt.load_config(flags[0], [*flags[1], "digits_mlp.hidden_sizes = (16,)"])
        with pytest.raises(ValueError, match=r"hidden_sizes: \(32,\) there, \(16,\) here"):
            method_of_sweep(path, comm_lopt.meta_test.meta_test_problem(), (7,))
    finally:
        comm_lopt.load_config([])
    assert "digits_datasets.batch_size" in settings and "digits_mlp.hidden_sizes" in settings
    # What describes an optimizer or its meta-training describes no problem.
    words = ("SlowMo", "local_sgd", "LocalSGD", "meta_t", "PES", "LOpt", "num_rounds")
    assert not [name for name in settings if any(word in name for word in words)]


def test_seeds_that_the_tuning_saw_are_refused_by_name(tmp_path):
    path = write_sweep(tmp_path, hand_designed("SlowMo"), {"momentum": (0.9,)}, seeds=(100, 101))
    with pytest.raises(ValueError, match="has seen the seeds 100, 101, on which"):
        method_of_sweep(path, problem(), (99, 100, 101))


def test_sweep_of_a_theta_is_a_tuned_method(tmp_path):
    swept = method_of_theta(f"small={save(tmp_path / 'theta', FAMILY)}")
    path = write_sweep(tmp_path / "s", swept, {"local_learning_rate": (0.3, 0.7)}, best=1)
    tuned = method_of_sweep(path, problem(), (7,))
    assert tuned.is_learned and tuned.label == "small" and tuned.theta == swept.theta
    assert tuned.hparams["local_learning_rate"] == (0.7, f"sweep {path}")
    tuned.check(problem())


def test_theta_that_is_not_the_one_that_was_tuned_is_refused(tmp_path):
    theta = save(tmp_path / "theta", FAMILY)
    path = write_sweep(tmp_path / "s", method_of_theta(theta), {"local_learning_rate": (0.3,)})
    save(tmp_path / "theta", FAMILY, learned_opt=comm_lopt.LOptA(hidden_size=4))
    with pytest.raises(ValueError, match="no longer the theta that the sweep"):
        method_of_sweep(path, problem(), (7,))
    (tmp_path / "theta" / "theta.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no theta at"):
        method_of_sweep(path, problem(), (7,))


def test_sweep_of_an_older_format_says_so(tmp_path):
    old = {"optimizer": "SlowMo", "best": {"momentum": 0.9}, "seeds": [0]}
    (tmp_path / "sweep.json").write_text(json.dumps(old), encoding="utf-8")
    with pytest.raises(ResultsError, match="format version 1 and this comm_lopt reads 2"):
        method_of_sweep(str(tmp_path), problem(), (7,))


@pytest.mark.parametrize(
    ("name", "value"),
    [("optimizer", "meta_train"), ("optimizer", 3), ("local_optimizer", "os.system")],
)
def test_sweep_file_can_name_nothing_but_optimizers(tmp_path, name, value):
    path = write_sweep(tmp_path, hand_designed("SlowMo"), {"momentum": (0.9,)})
    file = tmp_path / "sweep.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    saved["method"][name] = value
    file.write_text(json.dumps(saved), encoding="utf-8")
    with pytest.raises(ValueError, match="is not known|must be at most 300"):
        method_of_sweep(path, problem(), (7,))
