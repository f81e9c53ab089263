"""Gin files: all that ship load, and what is not there is answered with the nearest name."""

import gin
import jax
import pytest

import comm_lopt
from comm_lopt import meta_test, upstream
from comm_lopt.config import ConfigError


@pytest.fixture(autouse=True)
def _clean_gin(small_data_folder, monkeypatch):
    monkeypatch.setenv("COMM_LOPT_DATA", str(small_data_folder))
    yield
    gin.clear_config()


TASK_FILES = [name for name in comm_lopt.shipped_gin_files() if name.startswith("tasks/")]
OPTIMIZER_FILES = [name for name in comm_lopt.shipped_gin_files() if name.startswith("optimizers/")]
EXPERIMENTS = [name for name in comm_lopt.shipped_gin_files() if name.startswith("experiments/")]


def test_there_are_gin_files_of_every_kind():
    assert TASK_FILES and OPTIMIZER_FILES and EXPERIMENTS


@pytest.mark.parametrize("name", TASK_FILES)
def test_shipped_task_file_gives_a_problem(name, ordinary_promotion):
    comm_lopt.load_config([name])
    problem = meta_test.meta_test_problem()
    task = problem.task_family.sample_task(jax.random.PRNGKey(0))
    batch = next(problem.task_family.datasets.train)

    def first_loss(key):
        params, state = task.init_with_state(key)
        return task.loss_with_state(params, state, key, batch)[0]

    assert jax.eval_shape(first_loss, jax.random.PRNGKey(0)).shape == ()


def test_every_task_has_a_gin_file():
    assert {f"tasks/{name}.gin" for name in comm_lopt.TASKS} == set(TASK_FILES)


# Every optimizer on one task, and one optimizer on every task.
PAIRS = [("tasks/digits_mlp.gin", name) for name in OPTIMIZER_FILES]
PAIRS += [(task, "optimizers/lagg_a.gin") for task in TASK_FILES if task != PAIRS[0][0]]


@pytest.mark.parametrize(("task", "name"), PAIRS)
def test_shipped_optimizer_file_meta_trains_on_shipped_task(task, name):
    comm_lopt.load_config([task, name, "meta_training.gin"], ["num_workers = 3", "num_tasks = 2"])
    (estimator,) = upstream.build_gradient_estimators(jax.random.PRNGKey(0), 1)
    family = upstream.task_family_of(estimator)
    learned_opt = upstream.learned_opt_of(estimator)
    comm_lopt.meta_train.check_fit(family, learned_opt)
    assert family.num_workers == 3
    assert learned_opt.num_workers in (None, 3)
    assert "".join(name.split("/")[1][: -len(".gin")].split("_")) == learned_opt.name.lower()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_shipped_experiment_builds_its_estimators(name):
    comm_lopt.load_config([name])
    assert len(upstream.build_gradient_estimators(jax.random.PRNGKey(0), 1)) == 1
    assert isinstance(meta_test.meta_test_problem(), meta_test.Problem)


def test_bindings_win_over_files():
    comm_lopt.load_config(["tasks/digits_mlp.gin"], ["num_rounds = 7"])
    assert meta_test.meta_test_problem().num_rounds == 7


def test_loading_replaces_what_was_loaded_before():
    comm_lopt.load_config(["tasks/digits_mlp.gin"], ["num_rounds = 7"])
    comm_lopt.load_config(["tasks/digits_mlp.gin"])
    assert meta_test.meta_test_problem().num_rounds == 100


def test_own_file_may_include_shipped_ones(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text("include './tasks/digits_mlp.gin'\nnum_workers = 2\n", encoding="utf-8")
    comm_lopt.load_config([str(path)])
    assert meta_test.meta_test_problem().num_workers == 2


def test_unknown_file_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'tasks/digits_mlp.gin'"):
        comm_lopt.load_config(["tasks/digit_mlp.gin"])


def test_unknown_included_file_suggests_the_nearest(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text("include './tasks/digits_mpl.gin'\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="did you mean 'tasks/digits_mlp.gin'"):
        comm_lopt.load_config([str(path)])


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'SlowMo'"):
        comm_lopt.load_config([], ["SlowMow.momentum = 0.9"])


def test_unknown_reference_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'LAggA'"):
        comm_lopt.load_config([], ["learned_optimizer = @LAgggA()"])


def test_unknown_parameter_is_named():
    with pytest.raises(ConfigError, match="momenta"):
        comm_lopt.load_config([], ["SlowMo.momenta = 0.9"])


def test_bad_syntax_is_a_config_error():
    with pytest.raises(ConfigError, match="cannot be read"):
        comm_lopt.load_config([], ["SlowMo.momentum = = 0.9"])


def test_missing_module_is_named():
    with pytest.raises(ConfigError, match="no_such_module"):
        comm_lopt.load_config([], imports=["no_such_module"])
