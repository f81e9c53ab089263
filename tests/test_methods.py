"""What is compared, and where each of its values came from."""

import json

import gin
import jax
import numpy as np
import optax
import pytest

import comm_lopt  # isort: skip

from learned_optimization.learned_optimizers.adafac_mlp_lopt import AdafacMLPLOpt
from small_rules import AlongRoots

from comm_lopt.data.sources.digits import digits_datasets
from comm_lopt.meta_test.problem import Problem
from comm_lopt.methods import hand_designed, learned
from comm_lopt.tasks.digits import digits_mlp

pytestmark = pytest.mark.usefixtures("ordinary_promotion")


@pytest.fixture(autouse=True)
def _clean_gin():
    yield
    gin.clear_config()


def problem(**changes):
    return Problem(digits_mlp((4,), digits_datasets(batch_size=4)), 2, 2, 2, **changes)


@gin.configurable(module="test_methods")
def own_rule(learning_rate=0.5, nesterov=True):
    return optax.sgd(learning_rate, momentum=0.9, nesterov=nesterov)


@gin.configurable(module="test_methods")
class OwnLOptA(comm_lopt.LOptA):
    """A subclass as a user writes it."""


@gin.configurable(module="test_methods")
def own_task_thing() -> int:
    return 1


def theta_of(learned_opt):
    return learned_opt.init(jax.random.PRNGKey(0))


def hparam(method, name):
    return tuple(method.hparams[name])


def test_values_come_from_gin_then_the_registry_then_the_function():
    assert hparam(hand_designed("DiLoCo"), "learning_rate") == (0.7, "default")
    gin.parse_config(["local_sgd.learning_rate = 1.0", "DataParallelAdam.learning_rate = 0.3"])
    gin.parse_config("Nesterov.momentum = 0.5")
    assert hparam(hand_designed("MuLoCo"), "momentum") == (0.5, "gin")
    assert hparam(hand_designed("MuLoCo"), "learning_rate") == (0.7, "default")
    assert hparam(hand_designed("LocalSGD"), "local_learning_rate") == (1.0, "gin")
    assert hparam(hand_designed("LocalSGD"), "local_weight_decay") == (0.0, "default")
    assert hparam(hand_designed("DataParallelAdam"), "learning_rate") == (0.3, "gin")
    given = hand_designed("LocalSGD", local_learning_rate=0.2)
    assert hparam(given, "local_learning_rate") == (0.2, "given")
    assert given.describe()["sources"]["local_learning_rate"] == "given"


PUBLISHED = {
    "SlowMo": {"slow_learning_rate": 1.0},
    "FedAvgM": {"learning_rate": 1.0, "momentum": 0.9},
    "FedAdam": {"b1": 0.9, "b2": 0.99, "tau": 1e-3},
    "FedYogi": {"b1": 0.9, "b2": 0.99, "tau": 1e-3},
    "DiLoCo": {
        "learning_rate": 0.7, "momentum": 0.9, "local_learning_rate": 4e-4, "local_b1": 0.9,
        "local_b2": 0.95, "local_epsilon": 1e-8, "local_weight_decay": 0.1,
    },
    "DiLoCoK1": {"learning_rate": 0.7, "momentum": 0.8, "local_b2": 0.95},
    "MuLoCo": {
        "learning_rate": 0.7, "momentum": 0.6, "local_momentum": 0.9, "local_nesterov": False,
        "local_adam_b1": 0.9, "local_adam_b2": 0.99,
    },
    "SNOO": {"learning_rate": 0.8, "momentum": 0.75},
    "EMANesterov": {"lookahead": 0.5},
    "GPA": {"train_interp_coeff": 0.7, "eval_interp_coeff": 0.9},
    "DataParallelAdam": {"b1": 0.9, "b2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults_are_the_published_values(name):
    values = hand_designed(name).values()
    assert {key: values[key] for key in PUBLISHED[name]} == PUBLISHED[name]


def test_what_the_problem_says_of_its_workers_reaches_the_rounds():
    divided = problem(partition=comm_lopt.IIDParts(seed=3), participation=1)
    for name in ("LocalSGD", "DataParallelSGD"):
        family, _ = hand_designed(name).build(divided, {})
        assert (family.num_workers, family.num_local_steps) == (2, 2)
        weights = family.worker_weights(jax.random.PRNGKey(0))
        assert sorted(np.asarray(weights) > 0) == [False, True]
        expected = divided.rounds().round(0)
        np.testing.assert_array_equal(family.datasets.train.round(0), expected)
        # Each worker draws from its own half.
        assert not np.intersect1d(expected[0], expected[1]).size


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("DataParallelAdam", {"b1": 0.8, "epsilon": 1e-6, "weight_decay": 0.1}),
        ("LocalSGD", {"local_clip_norm": 5.0, "local_weight_decay": 1e-4}),
        ("optax.lion", {"learning_rate": 0.1, "b2": 0.9}),
        ("optax.contrib.prodigy", {"learning_rate": 0.1}),
        ("own_rule", {"learning_rate": 0.1, "nesterov": False}),
    ],
)
def test_every_argument_of_any_optimizer_can_be_given_and_is_recorded(name, given):
    method = hand_designed(name, **given)
    method.check(problem())
    hparams = method.describe()["hparams"]
    assert {key: hparams[key] for key in given} == given


def test_what_is_given_reaches_the_rule_and_the_local_optimizer():
    method = hand_designed("own_rule", learning_rate=2.0, nesterov=False, local_learning_rate=0.25)
    family, opt = method.build(problem(), {})
    state = opt.update(opt.init(np.ones(2, np.float32)), np.ones(2, np.float32))
    np.testing.assert_allclose(opt.get_params(state), [-1.0, -1.0])
    updates, _ = family.local_opt.update({"w": 4.0}, family.local_opt.init({"w": 0.0}), {"w": 0.0})
    assert updates["w"] == -1.0


@pytest.mark.parametrize("local_opt", ["local_adamw", "optax.adamw"])
def test_local_optimizer_is_part_of_the_method(local_opt):
    method = hand_designed("LocalSGD", "mine", local_opt, local_learning_rate=0.01, local_b2=0.9)
    assert method.label == "mine" and method.local_state_persists
    assert method.describe()["local_optimizer"] == local_opt
    assert hparam(method, "local_b2") == (0.9, "given")
    method.check(problem())


def test_local_sgd_keeps_no_state_and_diloco_does():
    assert not hand_designed("LocalSGD").local_state_persists
    assert hand_designed("DiLoCo").local_state_persists


def test_default_grid_has_the_axes_of_both_optimizers():
    assert set(hand_designed("SlowMo").grid) == {
        "local_learning_rate", "slow_learning_rate", "momentum",
    }  # fmt: skip
    assert set(hand_designed("SlowMo", local_opt="optax.adamw").grid) == {
        "slow_learning_rate", "momentum",
    }  # fmt: skip


def test_data_parallel_methods_have_no_local_optimizer():
    method = hand_designed("DataParallelSGD")
    assert method.describe()["local_optimizer"] is None
    assert not [name for name in method.hparams if name.startswith("local_")]
    with pytest.raises(ValueError, match="no hyperparameter 'local_learning_rate'"):
        hand_designed("DataParallelSGD", local_learning_rate=0.1)


NO_OPTIMIZERS = [
    "meta_train", "digits_datasets", "own_task_thing", "singleton", "optax.apply_updates",
    "optax.losses", "optax.nothing", "SlowMow", "comm_lopt.local_sgd", "", "os.system",
]  # fmt: skip


@pytest.mark.parametrize("name", NO_OPTIMIZERS)
def test_what_makes_no_optimizer_is_no_optimizer(name):
    with pytest.raises(ValueError, match="optimizer '.*' is not known; "):
        hand_designed(name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hand_designed("SlowMow"), "did you mean 'SlowMo'"),
        (lambda: hand_designed("SLOWMO"), "did you mean 'SlowMo'"),
        (lambda: hand_designed("optax.lio"), "did you mean 'optax.lion'"),
        (lambda: hand_designed("SlowMo", momentun=0.5), "no hyperparameter 'momentun'; did you me"),
        (lambda: hand_designed("SlowMo", momentum="big"), "momentum='big' is not a number"),
        (lambda: hand_designed("LOptA"), "LOptA is learned: it runs with a theta"),
        (lambda: hand_designed("OwnLOptA"), "OwnLOptA is learned"),
        (lambda: hand_designed("SlowMo", local_opt="local_adamv"), "did you mean 'local_adamw'"),
        (lambda: hand_designed("SlowMo", "a\nb"), "1 to 200 printable"),
    ],
)
def test_unknown_names_and_values_are_errors_with_a_suggestion(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (lambda: hand_designed("optax.lion"), {}, "needs a value of learning_rate"),
        (lambda: hand_designed("SlowMo", momentum=2.0), {}, "momentum=2.0 lies outside"),
        (
            lambda: hand_designed("DiLoCoK1", "one"),
            {"participation": 0.5},
            "one has one worker and participation=0.5",
        ),
        (
            lambda: learned(comm_lopt.LAggA(3), theta_of(comm_lopt.LAggA(3))),
            {},
            r"LAggA was built for num_workers=3 .* num_workers=2",
        ),
        (
            lambda: learned(comm_lopt.LAggA(2), theta_of(comm_lopt.LAggA(2)), "small"),
            {"participation": 1},
            "small sees each worker's delta .*:absent_workers=mean",
        ),
    ],
)
def test_method_that_cannot_run_on_a_problem_says_so_before_any_work(make, changes, message):
    with pytest.raises(ValueError, match=message):
        make().check(problem(**changes))


def test_worker_deltas_with_absent_workers_filled_in_are_accepted():
    learned_opt = comm_lopt.LAggA(2)
    method = learned(learned_opt, theta_of(learned_opt), absent_workers="mean")
    method.check(problem(participation=0.5))
    assert method.describe()["hparams"]["absent_workers"] == "mean"


def test_rule_that_needs_the_workers_squares_gets_them_whoever_is_absent():
    learned_opt = AlongRoots()
    method = learned(learned_opt, theta_of(learned_opt), local_learning_rate=0.1)
    divided = problem(participation=1)
    method.check(divided)
    assert method.describe()["sends"] == "mean_and_squares"
    family, _ = method.build(divided, {})
    assert (family.worker_squares, family.worker_deltas) == (True, False)


def test_implementation_can_be_chosen_when_theta_is_used():
    learned_opt = comm_lopt.LOptA(hidden_size=3)
    method = learned(learned_opt, theta_of(learned_opt), implementation="plain")
    assert hparam(method, "implementation") == ("plain", "given")
    method.check(problem())
    with pytest.raises(ValueError, match="did you mean 'kernel'|implementation 'kernl'"):
        method.with_values("given", implementation="kernl").check(problem())


def test_own_subclass_and_upstreams_own_class_are_learned_methods():
    for learned_opt in (OwnLOptA(hidden_size=3), AdafacMLPLOpt(hidden_size=3)):
        method = learned(learned_opt, theta_of(learned_opt), local_learning_rate=0.1)
        method.check(problem())
        described = method.describe()
        assert described["learned"] and described["optimizer"] == type(learned_opt).__name__
        assert described["sends"] == "mean"


def test_upstreams_optimizer_is_a_method_by_its_gin_name():
    method = hand_designed("RMSProp", learning_rate=0.01)
    method.check(problem())
    assert method.values()["learning_rate"] == 0.01


def test_descriptions_are_json_whatever_numbers_were_given():
    gin.parse_config("local_sgd.weight_decay = 0.0")
    method = hand_designed(
        "SlowMo", momentum=np.float32(0.5), slow_learning_rate=np.int64(1),
        local_clip_norm=float("inf"), local_learning_rate=jax.numpy.float32(0.25),
    )  # fmt: skip
    described = json.loads(json.dumps(method.describe(), allow_nan=False))
    assert described["hparams"] == {
        "momentum": 0.5, "slow_learning_rate": 1, "local_learning_rate": 0.25,
        "local_clip_norm": "inf", "local_weight_decay": 0.0,
    }  # fmt: skip
    assert described["sources"]["local_weight_decay"] == "gin"


def test_what_is_chosen_anew_of_a_learned_optimizer_leaves_its_implementation(ordinary_promotion):
    learned_opt = comm_lopt.LAggA(2, implementation="plain")
    theta = learned_opt.init(jax.random.PRNGKey(0))
    method = comm_lopt.learned(learned_opt, theta, absent_workers="mean")
    _, rule = method.make({})
    assert rule._learned_opt.implementation == "plain"
    assert rule._learned_opt.absent_workers == "mean"


@pytest.mark.parametrize("value", [[0.5], np.ones(1), print, 1j])
def test_value_that_results_cannot_hold_is_refused_at_once(value):
    with pytest.raises(ValueError, match="momentum=.* is no number, text, truth value or None"):
        hand_designed("SlowMo", momentum=value)
