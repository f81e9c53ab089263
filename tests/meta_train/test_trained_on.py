"""Theta's header says with what it was meta-trained, for every family."""

import gin
import jax
import optax
import pytest

import comm_lopt
from comm_lopt import upstream
from comm_lopt.cli.method_specs import method_of_theta
from comm_lopt.data.sources.digits import digits_datasets
from comm_lopt.meta_train.trained_on import trained_on
from comm_lopt.tasks.digits import digits_mlp
from comm_lopt.tasks.local_optimizers import local_adamw
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily


@pytest.fixture(autouse=True)
def _clean_gin(small_data_folder, monkeypatch, ordinary_promotion):
    monkeypatch.setenv("COMM_LOPT_DATA", str(small_data_folder))
    yield
    gin.clear_config()


def family(**arguments):
    inner = digits_mlp((4,), digits_datasets(batch_size=4))
    return LocalSGDTaskFamily(inner, 2, 3, **arguments)


def rates_of(*families):
    return [told["local_learning_rate"] for told in trained_on(families, 1)["families"]]


def configured_family(*bindings):
    comm_lopt.load_config(
        ["tasks/digits_mlp.gin", "optimizers/lopt_a.gin", "meta_training.gin"],
        ["num_workers = 2", "num_tasks = 2", *bindings],
    )
    (estimator,) = upstream.build_gradient_estimators(jax.random.PRNGKey(0), 1)
    return upstream.task_family_of(estimator)


@pytest.mark.parametrize(
    ("bindings", "told"),
    [
        ([], 0.5),
        (["local_learning_rate = 0.25"], 0.25),
        (["local_sgd.learning_rate = 0.03"], 0.03),
        (["LocalSGDTaskFamily.local_learning_rate = 0.7"], 0.7),
        (["LocalSGDTaskFamily.local_learning_rate = (0.1, 1.0)"], [0.1, 1.0]),
    ],
)
def test_local_learning_rate_in_the_header_is_what_ran_wherever_it_was_bound(bindings, told):
    assert rates_of(configured_family(*bindings)) == [told]


def test_sampled_task_file_tells_the_interval():
    comm_lopt.load_config(["tasks/sampled_mlp.gin"], ["num_workers = 2"])
    assert rates_of(gin.get_configurable("LocalSGDTaskFamily")()) == [[0.1, 1.0]]


def test_what_is_the_same_for_all_families_is_told_once_more():
    mixture = [family(local_learning_rate=0.5), family(local_opt=local_adamw)]
    told = trained_on(mixture, 7)
    assert told["families"] == [
        {"task": "digits_mlp", "num_workers": 2, "num_local_steps": 3,
         "local_optimizer": "local_sgd", "local_learning_rate": 0.5,
         "local_state_persists": False},
        {"task": "digits_mlp", "num_workers": 2, "num_local_steps": 3,
         "local_optimizer": "local_adamw", "local_learning_rate": 4e-4,
         "local_state_persists": False},
    ]  # fmt: skip
    alone = {key: value for key, value in told.items() if key != "families"}
    assert alone == {
        "task": "digits_mlp", "num_workers": 2, "num_local_steps": 3,
        "local_state_persists": False, "meta_steps": 7,
    }  # fmt: skip


def test_estimators_of_one_family_are_one_family():
    assert rates_of(family(local_learning_rate=0.5), family(local_learning_rate=0.5)) == [0.5]


@pytest.mark.parametrize(
    ("local_opt", "name"),
    [(optax.adamw, "optax.adamw"), (optax.contrib.muon, "optax.contrib.muon")],
)
def test_local_optimizer_of_optax_is_told_by_a_name_that_finds_it_again(tmp_path, local_opt, name):
    told = trained_on([family(local_opt=local_opt, local_learning_rate=0.01)], 1)
    learned_opt = comm_lopt.LOptA(hidden_size=3)
    theta = learned_opt.init(jax.random.PRNGKey(0))
    comm_lopt.save_theta(tmp_path, learned_opt, theta, told)
    method = method_of_theta(str(tmp_path))
    assert method.local_optimizer == name
    assert method.hparams["local_learning_rate"] == (0.01, "theta's header")


def test_transformation_without_a_name_asks_for_one(tmp_path):
    told = trained_on([family(local_opt=optax.sgd(0.1))], 1)
    assert told["families"][0]["local_optimizer"] is None
    learned_opt = comm_lopt.LOptA(hidden_size=3)
    theta = learned_opt.init(jax.random.PRNGKey(0))
    comm_lopt.save_theta(tmp_path, learned_opt, theta, told)
    with pytest.raises(ValueError, match="local_opt=local_sgd"):
        method_of_theta(str(tmp_path))


@pytest.mark.parametrize("persists", [True, False])
def test_local_states_persist_in_meta_testing_as_they_did_in_meta_training(tmp_path, persists):
    families = [family(local_opt=local_adamw, local_state_persists=persists)]
    learned_opt = comm_lopt.LOptA(hidden_size=3)
    theta = learned_opt.init(jax.random.PRNGKey(0))
    comm_lopt.save_theta(tmp_path, learned_opt, theta, trained_on(families, 1))
    method = method_of_theta(str(tmp_path))
    assert method.local_state_persists is persists
    assert method.describe()["local_state_persists"] is persists
    # With another local optimizer than it was meta-trained with, its own custom holds.
    assert method_of_theta(f"{tmp_path}:local_opt=local_sgd").local_state_persists is False
