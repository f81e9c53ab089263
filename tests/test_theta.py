"""Theta's file: what goes in comes out, and nothing else is accepted."""

import json

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import comm_lopt
from comm_lopt.theta import FILE_NAME, check_theta

LEARNED = [name for name, entry in comm_lopt.OPTIMIZERS.items() if entry.kind == "learned"]


def _saved(tmp_path, learned_opt, seed=0):
    theta = learned_opt.init(jax.random.PRNGKey(seed))
    return theta, comm_lopt.save_theta(tmp_path, learned_opt, theta, {"task": "a task"})


def _rewrite(path, header=None, arrays=None):
    found = load_file(str(path)) if arrays is None else arrays
    save_file(found, str(path), metadata={} if header is None else {"comm_lopt": header})


def _header(learned_opt, **changes):
    header = {
        "format_version": 1,
        "feature_version": 1,
        "class": learned_opt.name,
        "hparams": learned_opt.hparams(),
        "trained_on": {},
    }
    return json.dumps({**header, **changes})


@pytest.mark.parametrize("name", LEARNED)
def test_saved_theta_comes_back_bit_for_bit_with_its_optimizer(tmp_path, name):
    learned_opt = comm_lopt.OPTIMIZERS[name].make(hidden_size=5, step_multiplier=0.01)
    theta, path = _saved(tmp_path, learned_opt)
    for given in (path, tmp_path):
        loaded_opt, loaded, trained_on = comm_lopt.load_theta(given)
        jax.tree.map(np.testing.assert_array_equal, loaded, theta)
        assert type(loaded_opt) is type(learned_opt)
        assert loaded_opt.hparams() == learned_opt.hparams()
        assert trained_on == {"task": "a task"}


def test_decays_come_back_from_the_header(tmp_path):
    features = comm_lopt.AdaFeatures(momentum_decays=(0.5,), adafactor_decays=(0.7,))
    _saved(tmp_path, comm_lopt.LOptA(features))
    assert comm_lopt.load_theta(tmp_path)[0].features == features


def test_saving_leaves_no_temporary_file(tmp_path):
    _saved(tmp_path, comm_lopt.LOptA())
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_missing_theta_says_which_folder_to_pass(tmp_path):
    with pytest.raises(FileNotFoundError, match="TRAIN_LOG_DIR/theta"):
        comm_lopt.load_theta(tmp_path)


@pytest.mark.parametrize(
    ("saved", "wanted", "told"),
    [
        (comm_lopt.LOptA(), comm_lopt.LOpt(), "a theta of LOptA, not of LOpt"),
        (comm_lopt.LOptA(), comm_lopt.LOptA(hidden_size=16), "hidden_size=32 in the file, 16"),
        (comm_lopt.LAggA(4), comm_lopt.LAggA(8), "num_workers=4 in the file, 8 wanted"),
    ],
)
def test_theta_of_another_class_size_or_worker_number_is_refused(tmp_path, saved, wanted, told):
    _saved(tmp_path, saved)
    with pytest.raises(comm_lopt.ThetaError, match=told):
        comm_lopt.load_theta(tmp_path, wanted)


def test_newer_format_says_so(tmp_path):
    _, path = _saved(tmp_path, comm_lopt.LOptA())
    _rewrite(path, _header(comm_lopt.LOptA(), format_version=2))
    with pytest.raises(comm_lopt.ThetaError, match="format version 2.*newer comm_lopt"):
        comm_lopt.load_theta(path)


@pytest.mark.parametrize("found", [0, "1", None, True])
def test_version_that_never_was_is_refused(tmp_path, found):
    _, path = _saved(tmp_path, comm_lopt.LOptA())
    _rewrite(path, _header(comm_lopt.LOptA(), format_version=found))
    with pytest.raises(comm_lopt.ThetaError, match="format version .*reads 1; save it anew"):
        comm_lopt.load_theta(path)


def test_other_features_are_refused(tmp_path):
    _, path = _saved(tmp_path, comm_lopt.LOptA())
    _rewrite(path, _header(comm_lopt.LOptA(), feature_version=2))
    with pytest.raises(comm_lopt.ThetaError, match="feature version 2.*newer comm_lopt"):
        comm_lopt.load_theta(path)


def test_header_says_what_theta_is_and_how_it_may_be_used(tmp_path):
    learned_opt = comm_lopt.LAggA(4)
    theta = learned_opt.init(jax.random.PRNGKey(0))
    path = comm_lopt.save_theta(tmp_path, learned_opt, theta, {"task": "t", "num_local_steps": 2})
    with safe_open(str(path), "numpy") as file:
        header = json.loads(file.metadata()["comm_lopt"])
    assert header["class"] == "LAggA" and header["hparams"]["num_workers"] == 4
    assert header["trained_on"] == {"task": "t", "num_local_steps": 2}
    assert header["feature_version"] == 1 and header["licence"] == "Apache-2.0"
    assert header["versions"] == comm_lopt.versions()


@pytest.mark.parametrize(
    ("trained_on", "told"),
    [
        ([1], "must be an object"),
        ({"local_learning_rate": "fast"}, "local_learning_rate is 'fast'; it must be a int or"),
        ({"local_learning_rate": float("nan")}, "local_learning_rate is nan"),
        ({"note": ["a", "list"]}, "trained_on.note"),
    ],
)
def test_training_that_is_not_told_as_expected_is_refused(tmp_path, trained_on, told):
    _, path = _saved(tmp_path, comm_lopt.LOptA())
    _rewrite(path, _header(comm_lopt.LOptA(), trained_on=trained_on))
    with pytest.raises(comm_lopt.ThetaError, match=told):
        comm_lopt.load_theta(path)


@pytest.mark.parametrize("size", [10**9, 10**30])
@pytest.mark.parametrize("name", ["hidden_size", "hidden_layers"])
def test_sizes_that_no_file_can_hold_are_refused_at_once(tmp_path, name, size):
    _, path = _saved(tmp_path, comm_lopt.LOptA())
    hparams = {**comm_lopt.LOptA().hparams(), name: size}
    _rewrite(path, _header(comm_lopt.LOptA(), hparams=hparams))
    with pytest.raises(comm_lopt.ThetaError):
        comm_lopt.load_theta(path)


def test_theta_that_does_not_fit_is_not_saved(tmp_path):
    theta = comm_lopt.LOptA(hidden_size=4).init(jax.random.PRNGKey(0))
    with pytest.raises(comm_lopt.ThetaError, match="expects float32"):
        comm_lopt.save_theta(tmp_path, comm_lopt.LOptA(), theta, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "header",
    [
        None,
        "no json",
        "[" * 10_000,
        "[]",
        _header(comm_lopt.LOptA(), hparams={}),
        '{"format_version": 1, "feature_version": 1}',
    ],
)
def test_header_that_is_not_ours_is_refused(tmp_path, header):
    _, path = _saved(tmp_path, comm_lopt.LOptA())
    _rewrite(path, header)
    with pytest.raises(comm_lopt.ThetaError, match="is not a theta of comm_lopt"):
        comm_lopt.load_theta(path)


def test_unknown_class_suggests_the_nearest(tmp_path):
    _, path = _saved(tmp_path, comm_lopt.LOptA())
    _rewrite(path, _header(comm_lopt.LOptA(), **{"class": "LOptAA"}))
    with pytest.raises(comm_lopt.ThetaError, match="did you mean 'LOptA'"):
        comm_lopt.load_theta(path)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8])
def test_file_that_is_no_safetensors_is_refused(tmp_path, content):
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    with pytest.raises(comm_lopt.ThetaError):
        comm_lopt.load_theta(path)


def test_missing_array_is_named(tmp_path):
    learned_opt = comm_lopt.LOptA()
    _, path = _saved(tmp_path, learned_opt)
    arrays = load_file(str(path))
    del arrays["mlp/b1"]
    _rewrite(path, _header(learned_opt), arrays)
    with pytest.raises(comm_lopt.ThetaError, match="mlp/b1"):
        comm_lopt.load_theta(path)


@pytest.mark.parametrize("wrong", [np.zeros(3, np.float32), np.zeros(32, np.float16)])
def test_leaf_of_wrong_shape_or_dtype_says_what_was_expected(wrong):
    learned_opt = comm_lopt.LOptA()
    theta = learned_opt.init(jax.random.PRNGKey(0))
    theta["mlp"]["b0"] = wrong
    with pytest.raises(comm_lopt.ThetaError, match=r"theta\[mlp/b0\].*expects float32\[32\]"):
        check_theta(learned_opt, theta)
