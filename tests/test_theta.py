"""Theta's file: what goes in comes out, and nothing else is accepted."""

import json

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from small_rules import multipliers

import comm_lopt  # isort: skip

from learned_optimization.learned_optimizers.adafac_mlp_lopt import AdafacMLPLOpt

from comm_lopt import theta as theta_module
from comm_lopt.theta import FILE_NAME, check_theta, theta_file

LEARNED = [name for name, entry in comm_lopt.OPTIMIZERS.items() if entry.is_learned]


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
    arguments = multipliers(name, step_multiplier=0.01, exponent_multiplier=0.02)
    learned_opt = comm_lopt.OPTIMIZERS[name].make(hidden_size=5, **arguments)
    theta, path = _saved(tmp_path, learned_opt)
    for given in (path, tmp_path):
        loaded_opt, loaded, trained_on = comm_lopt.load_theta(given)
        jax.tree.map(np.testing.assert_array_equal, loaded, theta)
        assert type(loaded_opt) is type(learned_opt)
        assert loaded_opt.hparams() == learned_opt.hparams()
        assert trained_on == {"task": "a task"}


@pytest.mark.parametrize("steering", [False, comm_lopt.Steering(pace=0.1, cut=3.0)])
@pytest.mark.parametrize(
    "step_size",
    [
        comm_lopt.ConstantAlpha(1.5),
        comm_lopt.LearnedAlpha(0.5),
        comm_lopt.AlphaFromStatistics(high=3.0, hidden_size=3),
        comm_lopt.MomentumAlpha(exponents=(0.1, 0.2, 0.3)),
    ],
)
def test_every_step_size_comes_back_with_and_without_steering(tmp_path, step_size, steering):
    learned_opt = comm_lopt.LAggR(
        step_size=step_size, steering=steering, time=True, learned_decays=True
    )
    theta, path = _saved(tmp_path, learned_opt)
    loaded_opt, loaded, _ = comm_lopt.load_theta(path)
    jax.tree.map(np.testing.assert_array_equal, loaded, theta)
    assert loaded_opt.step_size == step_size
    assert loaded_opt.steering == (steering or None)
    assert (loaded_opt.time, loaded_opt.learned_decays) == (True, True)
    assert ("steering" in loaded) == bool(steering)


def test_theta_whose_arrays_lie_in_another_order_comes_back(tmp_path):
    learned_opt = comm_lopt.LOptA(hidden_size=3)
    shapes = jax.eval_shape(learned_opt.init, jax.random.PRNGKey(0))
    theta = jax.tree.map(
        lambda leaf: np.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape, order="F"), shapes
    )
    comm_lopt.save_theta(tmp_path, learned_opt, theta, {})
    jax.tree.map(np.testing.assert_array_equal, comm_lopt.load_theta(tmp_path)[1], theta)


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


def test_files_that_are_larger_than_any_theta_are_not_read(tmp_path, monkeypatch):
    _, path = _saved(tmp_path, comm_lopt.LOptA())
    _rewrite(path, _header(comm_lopt.LOptA(), trained_on={"note": "x" * 2**16}))
    with pytest.raises(comm_lopt.ThetaError, match="a header of .* characters; .* at most"):
        comm_lopt.load_theta(path)
    monkeypatch.setattr(theta_module, "_MAX_FILE_BYTES", 1000)
    for read in (comm_lopt.load_theta, theta_file):
        with pytest.raises(comm_lopt.ThetaError, match="bytes; a theta has at most 1000"):
            read(path)


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


def test_theta_with_values_that_are_not_finite_is_refused(tmp_path):
    learned_opt = comm_lopt.LOptA()
    _, path = _saved(tmp_path, learned_opt)
    arrays = load_file(str(path))
    arrays["mlp/b1"][0] = np.nan
    _rewrite(path, _header(learned_opt), arrays)
    with pytest.raises(comm_lopt.ThetaError, match=r"mlp/b1\] has values that are not finite"):
        comm_lopt.load_theta(path)


@gin.configurable(module="test_theta")
class WarmLOptA(comm_lopt.LOptA):
    """A subclass with an argument of its own, which `hparams` does not know."""

    def __init__(self, warmth=1.0, **sizes):
        super().__init__(**sizes)
        self.warmth = warmth


@gin.configurable(module="test_theta")
class WarmerLOptA(WarmLOptA):
    """The same, which does."""

    def hparams(self):
        return {**super().hparams(), "warmth": self.warmth}


class UnregisteredLOptA(comm_lopt.LOptA):
    """One that gin does not know."""


def test_theta_of_ones_own_class_comes_back(tmp_path):
    for learned_opt in (WarmerLOptA(3.0, hidden_size=4), WarmLOptA(hidden_size=4)):
        theta, _ = _saved(tmp_path, learned_opt)
        loaded_opt, loaded, _ = comm_lopt.load_theta(tmp_path)
        assert type(loaded_opt) is type(learned_opt) and loaded_opt.warmth == learned_opt.warmth
        jax.tree.map(np.testing.assert_array_equal, loaded, theta)


def test_theta_of_upstreams_own_class_comes_back_with_what_gin_built_it_with(tmp_path):
    gin.parse_config("AdafacMLPLOpt.hidden_size = 6")
    learned_opt = AdafacMLPLOpt()
    theta, _ = _saved(tmp_path, learned_opt)
    gin.clear_config()
    loaded_opt, loaded, _ = comm_lopt.load_theta(tmp_path)
    assert type(loaded_opt) is AdafacMLPLOpt
    assert jax.tree.structure(loaded) == jax.tree.structure(theta)
    jax.tree.map(np.testing.assert_array_equal, loaded, theta)
    comm_lopt.load_theta(tmp_path, AdafacMLPLOpt(hidden_size=6))
    with pytest.raises(comm_lopt.ThetaError, match="_hidden_size=6 in the file, 5 wanted"):
        comm_lopt.load_theta(tmp_path, AdafacMLPLOpt(hidden_size=5))


@pytest.mark.parametrize(
    "learned_opt",
    [AdafacMLPLOpt(hidden_size=6), AdafacMLPLOpt(step_mult=0.5), WarmLOptA(2.0)],
)
def test_arguments_that_the_header_would_lose_must_be_passed(tmp_path, learned_opt):
    theta = learned_opt.init(jax.random.PRNGKey(0))
    with pytest.raises(comm_lopt.ThetaError, match=r"pass save_theta\(\.\.\., hparams="):
        comm_lopt.save_theta(tmp_path, learned_opt, theta, {})
    assert not list(tmp_path.iterdir())


def test_arguments_that_are_passed_go_into_the_header(tmp_path):
    learned_opt = AdafacMLPLOpt(hidden_size=6, step_mult=0.5)
    theta = learned_opt.init(jax.random.PRNGKey(0))
    given = {"hidden_size": 6, "step_mult": 0.5}
    comm_lopt.save_theta(tmp_path, learned_opt, theta, {}, hparams=given)
    loaded_opt, _, _ = comm_lopt.load_theta(tmp_path)
    assert (loaded_opt._hidden_size, loaded_opt._step_mult) == (6, 0.5)


def test_class_that_could_not_be_found_again_is_not_saved(tmp_path):
    with pytest.raises(comm_lopt.ThetaError, match="registered with @gin.configurable"):
        _saved(tmp_path, UnregisteredLOptA())


@pytest.mark.parametrize("name", ["digits_datasets", "meta_train", "os.system", "Adam", None, 3])
def test_class_that_is_no_learned_optimizer_is_refused_and_not_called(tmp_path, name):
    _, path = _saved(tmp_path, comm_lopt.LOptA())
    _rewrite(path, _header(comm_lopt.LOptA(), **{"class": name}))
    with pytest.raises(comm_lopt.ThetaError, match="no learned optimizer here"):
        comm_lopt.load_theta(path)


def test_families_of_a_mixture_come_back(tmp_path):
    families = [
        {"task": "a", "local_optimizer": "local_sgd", "local_learning_rate": [0.1, 1.0]},
        {"task": "b", "local_optimizer": None, "local_learning_rate": None, "num_workers": 4},
    ]
    learned_opt = comm_lopt.LOptA()
    theta = learned_opt.init(jax.random.PRNGKey(0))
    comm_lopt.save_theta(tmp_path, learned_opt, theta, {"families": families})
    assert comm_lopt.load_theta(tmp_path)[2] == {"families": families}


@pytest.mark.parametrize(
    "families",
    [
        "all", [1], [{}] * 1000, [{"local_learning_rate": [0.1]}], [{"num_workers": "8"}],
        [{"local_learning_rate": [0.0, 1.0]}], [{"local_learning_rate": ["a", "b"]}],
    ],
)  # fmt: skip
def test_families_that_are_not_told_as_expected_are_refused(tmp_path, families):
    _, path = _saved(tmp_path, comm_lopt.LOptA())
    _rewrite(path, _header(comm_lopt.LOptA(), trained_on={"families": families}))
    with pytest.raises(comm_lopt.ThetaError, match="families"):
        comm_lopt.load_theta(path)


def test_file_of_theta_is_told_by_its_place_and_its_bytes(tmp_path):
    _saved(tmp_path, comm_lopt.LOptA())
    told = theta_file(tmp_path)
    assert told["path"] == str(tmp_path / FILE_NAME)
    _saved(tmp_path, comm_lopt.LOptA(), seed=1)
    assert theta_file(tmp_path)["sha256"] != told["sha256"]


def test_numbers_of_every_library_are_saved_as_numbers(tmp_path):
    learned_opt = comm_lopt.LOptA(hidden_size=np.int64(4), step_multiplier=jnp.float32(0.5))
    family = {"task": "t", "num_workers": np.int32(8), "local_learning_rate": np.float32(0.25)}
    trained_on = {"meta_steps": jnp.asarray(3), "families": [family]}
    theta = learned_opt.init(jax.random.PRNGKey(0))
    comm_lopt.save_theta(tmp_path, learned_opt, theta, trained_on)
    loaded, _, told = comm_lopt.load_theta(tmp_path)
    assert loaded.hparams() == comm_lopt.LOptA(hidden_size=4, step_multiplier=0.5).hparams()
    assert told == {"meta_steps": 3, "families": [{**family, "num_workers": 8}]}


@pytest.mark.parametrize("note", [np.ones(2), [1], float("nan"), object()])
def test_theta_whose_header_could_not_be_read_back_is_not_saved(tmp_path, note):
    learned_opt = comm_lopt.LOptA(hidden_size=4)
    theta = learned_opt.init(jax.random.PRNGKey(0))
    with pytest.raises(comm_lopt.ThetaError):
        comm_lopt.save_theta(tmp_path / "x", learned_opt, theta, {"note": note})
    assert not list(tmp_path.iterdir())
