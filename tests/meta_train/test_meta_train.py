"""Meta-training: files, resume, and refusals before any long work."""

import csv

import gin
import jax
import numpy as np
import pytest
from small_rules import AlongRoots
from small_run import SMALL

import comm_lopt
from comm_lopt.meta_train import ResumeError, ThetaAdamW, check_fit, loop, meta_train
from comm_lopt.meta_train.log import METRICS, MetaTrainLog

STEPS = 4


@pytest.fixture(autouse=True)
def _upstream_promotes(ordinary_promotion):
    yield
    gin.clear_config()


def _load(*bindings, optimizer="lopt_a"):
    files = ["tasks/digits_mlp.gin", f"optimizers/{optimizer}.gin", "meta_training.gin"]
    comm_lopt.load_config(files, [*SMALL, *bindings])


def _metrics(folder):
    return _rows(folder / "metrics.csv")


def _rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_run_leaves_its_files_and_theta_moves(tmp_path):
    _load()
    learned_opt, theta = meta_train(tmp_path / "run", progress=False)
    rows = _metrics(tmp_path / "run")
    assert [int(row["meta_step"]) for row in rows] == [1, 2, 3, 4]
    assert all(np.isfinite(float(row[name])) for row in rows for name in METRICS)
    loaded_opt, loaded, trained_on = comm_lopt.load_theta(tmp_path / "run" / "theta")
    jax.tree.map(np.testing.assert_array_equal, loaded, theta)
    assert loaded_opt.hparams() == learned_opt.hparams()
    family = {
        "task": "digits_mlp",
        "num_workers": 2,
        "num_local_steps": 2,
        "local_optimizer": "local_sgd",
        "local_learning_rate": 0.5,
        "local_state_persists": False,
    }
    assert trained_on == {**family, "meta_steps": STEPS, "families": [family]}
    assert "digits_datasets.batch_size = 4" in (tmp_path / "run" / "config.gin").read_text()
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))
    start = learned_opt.init(jax.random.split(jax.random.PRNGKey(0), 4)[0])
    assert not np.array_equal(theta["mlp"]["w0"], start["mlp"]["w0"])


def test_resumed_run_gives_the_theta_of_one_never_stopped_and_validation_changes_nothing(
    tmp_path, monkeypatch
):
    _load("meta_train.checkpoint_every = 3")
    _, whole = meta_train(tmp_path / "whole", progress=False)
    validated = ["meta_train.validation_every = 2", "meta_train.validation_seeds = (7,)"]
    _load("meta_train.checkpoint_every = 3", "num_rounds = 3", *validated)

    class Stop(Exception):
        pass

    class StopsAtThree(MetaTrainLog):
        def write(self, row, not_finite=()):
            if row["meta_step"] == 3:
                raise Stop
            super().write(row, not_finite)

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(loop, "MetaTrainLog", StopsAtThree)
        meta_train(tmp_path / "stopped", progress=False)
    _, resumed = meta_train(tmp_path / "stopped", resume=True, progress=False)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    one, other = _metrics(tmp_path / "whole"), _metrics(tmp_path / "stopped")
    assert [r["meta_loss"] for r in one] == [r["meta_loss"] for r in other]
    # Each was done once: after meta-step 2 there is a checkpoint to go on from.
    first, second = _rows(tmp_path / "stopped" / "validation.csv")
    assert (first["meta_step"], second["meta_step"]) == ("2", "4")
    losses = [float(row["mean_train_loss"]) for row in (first, second)]
    _, _, told = comm_lopt.load_theta(tmp_path / "stopped" / "best_theta")
    assert told["meta_steps"] == (2 if losses[0] <= losses[1] else 4)
    assert _rows(tmp_path / "whole" / "validation.csv") == []
    assert not (tmp_path / "whole" / "best_theta").exists()


def test_folder_with_a_run_is_refused_unless_resumed(tmp_path):
    _load()
    (tmp_path / "metrics.csv").write_text("meta_step\n", encoding="utf-8")
    with pytest.raises(FileExistsError, match="--resume"):
        meta_train(tmp_path, progress=False)


def test_resuming_with_another_size_shows_it(tmp_path):
    _load()
    meta_train(tmp_path, progress=False)
    _load("LOptA.hidden_size = 5")
    with pytest.raises(ResumeError, match="optimizer.hidden_size: 4 saved, 5 here"):
        meta_train(tmp_path, resume=True, progress=False)


@pytest.mark.parametrize("name", ["num_meta_steps", "num_estimators", "checkpoint_every"])
def test_number_below_one_is_refused(tmp_path, name):
    arguments = {"num_meta_steps": 1, "progress": False, name: 0}
    with pytest.raises(ValueError, match=f"{name}=0"):
        meta_train(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_lagg_on_a_family_without_worker_deltas_is_refused_before_work(tmp_path):
    _load("LocalSGDTaskFamily.worker_deltas = False", optimizer="lagg_a")
    with pytest.raises(ValueError, match="worker_deltas = True"):
        meta_train(tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_steering_that_no_local_step_heeds_is_not_learned():
    family = comm_lopt.LocalSGDTaskFamily(comm_lopt.digits_mlp(), 2, 2, steered=False)
    check_fit(family, comm_lopt.LOptR())
    with pytest.raises(ValueError, match="steered = True"):
        check_fit(family, comm_lopt.LOptR(steering=comm_lopt.Steering(learned=True)))


def test_steering_of_a_task_without_local_steps_is_refused():
    check_fit(comm_lopt.digits_mlp(), comm_lopt.LOptR(steering=False))
    with pytest.raises(ValueError, match=r"no local steps.*LOptR\.steering = False"):
        check_fit(comm_lopt.digits_mlp(), comm_lopt.LOptR())


def test_rule_that_needs_squares_on_a_family_without_them_is_refused():
    arguments = {"num_workers": 2, "num_local_steps": 2}
    for family in (
        comm_lopt.LocalSGDTaskFamily(comm_lopt.digits_mlp(), **arguments, worker_deltas=True),
        comm_lopt.digits_mlp(),
    ):
        with pytest.raises(ValueError, match=r"AlongRoots needs .*worker_squares = True"):
            check_fit(family, AlongRoots())
    check_fit(
        comm_lopt.LocalSGDTaskFamily(comm_lopt.digits_mlp(), **arguments, worker_squares=True),
        AlongRoots(),
    )


def test_lagg_of_another_k_than_its_family_is_refused():
    family = comm_lopt.LocalSGDTaskFamily(comm_lopt.digits_mlp(), num_workers=4, worker_deltas=True)
    check_fit(family, comm_lopt.LAggA(4))
    with pytest.raises(ValueError, match="num_workers=8.*num_workers=4"):
        check_fit(family, comm_lopt.LAggA(8))


def test_lagg_where_workers_are_absent_is_refused_unless_it_fills_them_in():
    family = comm_lopt.LocalSGDTaskFamily(
        comm_lopt.digits_mlp(), num_workers=4, worker_deltas=True, participation=2
    )
    check_fit(family, comm_lopt.LAggA(4, absent_workers="mean"))
    with pytest.raises(ValueError, match='absent_workers="mean"'):
        check_fit(family, comm_lopt.LAggA(4))


def test_theta_optimizer_is_adamw_on_clipped_gradients():
    rate, decay = 0.1, 0.5
    opt = ThetaAdamW(rate, 0, 10**6, clip_norm=1.0, weight_decay=decay)
    state = opt.init({"a": np.asarray([1.0, -2.0], np.float32)})
    w, m, v = np.asarray([1.0, -2.0]), 0.0, 0.0
    # The first has norm 50 and is clipped, the second is not.
    for t, g in enumerate(np.asarray([[30.0, 40.0], [-0.3, 0.4]]), 1):
        state = jax.jit(opt.update)(state, {"a": g.astype(np.float32)}, 0.0)
        g = g / max(1.0, np.linalg.norm(g))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        adam = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - rate * (adam + decay * w)
        np.testing.assert_allclose(opt.get_params(state)["a"], w, rtol=1e-4)


def test_theta_optimizer_warms_up_and_falls_to_a_third():
    opt = ThetaAdamW(1.0, 10, 100, clip_norm=None, weight_decay=0.0)
    params = {"a": np.zeros(2, np.float32)}
    state = opt.init(params)
    update = jax.jit(opt.update)
    steps = []
    for _ in range(101):
        before = opt.get_params(state)["a"][0]
        state = update(state, {"a": np.ones(2, np.float32)}, 0.0)
        # Adam's step on a constant gradient is its learning rate.
        steps.append(float(before - opt.get_params(state)["a"][0]))
    assert steps[0] == 0.0
    np.testing.assert_allclose(steps[5], 0.5, rtol=1e-3)
    np.testing.assert_allclose(steps[10], 1.0, rtol=1e-3)
    np.testing.assert_allclose(steps[100], 1 / 3, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"warmup_steps": 10, "num_meta_steps": 10}, "warmup_steps=10"),
        ({"num_meta_steps": 0}, "num_meta_steps=0"),
        ({"clip_norm": -1.0}, "clip_norm=-1.0"),
    ],
)
def test_theta_optimizer_refuses_bad_numbers(arguments, told):
    with pytest.raises(ValueError, match=told):
        ThetaAdamW(**arguments)
