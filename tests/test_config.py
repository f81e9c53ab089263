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


def _write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.gin").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", ["tasks/digits_mlp.gin", "./tasks/digits_mlp.gin"])
def test_own_file_may_include_shipped_ones(tmp_path, name):
    _write(tmp_path, mine=f"include '{name}'\nnum_workers = 2\n")
    comm_lopt.load_config([str(tmp_path / "mine.gin")])
    assert meta_test.meta_test_problem().num_workers == 2


def test_name_that_ships_means_the_file_that_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _write(tmp_path, local_sgd="raise = True\n", mine="include 'local_sgd.gin'\nnum_rounds = 3\n")
    comm_lopt.load_config(["tasks/digits_mlp.gin", "mine.gin"])
    assert meta_test.meta_test_problem().num_rounds == 3


def test_path_means_the_file_beside_the_one_that_includes_it(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "elsewhere").mkdir()
    _write(tmp_path, mine="include 'tasks/digits_mlp.gin'\ninclude 'sub/sizes.gin'\n")
    _write(tmp_path / "sub", sizes="include './local_sgd.gin'\ninclude '../rounds.gin'\n")
    _write(tmp_path / "sub", local_sgd="num_workers = 5\n")
    _write(tmp_path, rounds="num_rounds = 6\n")
    _write(tmp_path / "elsewhere", rounds="num_rounds = 7\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    comm_lopt.load_config(["../mine.gin"])
    problem = meta_test.meta_test_problem()
    assert (problem.num_workers, problem.num_rounds) == (5, 6)
    monkeypatch.setenv("HOME", str(tmp_path))
    comm_lopt.load_config(["~/mine.gin"])


def test_folder_of_a_packages_name_hides_no_gin_file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tasks").mkdir()
    comm_lopt.load_config(["experiments/digits.gin"])
    with pytest.raises(ConfigError, match="did you mean 'tasks/digits_mlp.gin'"):
        comm_lopt.load_config(["tasks/digit_mlp.gin"])


def test_file_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "mine.gin"
    path.write_text("include 'tasks/digits_mlp.gin'\nnum_workers = 2\n", encoding="utf-8-sig")
    comm_lopt.load_config([str(path)])
    assert meta_test.meta_test_problem().num_workers == 2


def test_reading_leaves_gin_as_it_was():
    def found():
        readers = list(gin.config._FILE_READERS)
        return readers, list(gin.config._LOCATION_PREFIXES)

    before = found()
    comm_lopt.load_config(["experiments/digits.gin"])
    with pytest.raises(ConfigError):
        comm_lopt.load_config(["nowhere.gin"])
    assert found() == before
    assert not any("comm_lopt" in str(folder) for folder in before[1])


def test_unknown_file_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'tasks/digits_mlp.gin'"):
        comm_lopt.load_config(["tasks/digit_mlp.gin"])


def test_unknown_included_file_suggests_the_nearest(tmp_path):
    _write(tmp_path, mine="include 'tasks/digits_mpl.gin'\n")
    with pytest.raises(ConfigError, match="did you mean 'tasks/digits_mlp.gin'"):
        comm_lopt.load_config([str(tmp_path / "mine.gin")])


def test_file_that_includes_itself_is_refused(tmp_path):
    _write(tmp_path, mine="include 'other.gin'\n", other="include 'mine.gin'\n")
    with pytest.raises(ConfigError, match=r"mine.gin includes itself"):
        comm_lopt.load_config([str(tmp_path / "mine.gin")])


def test_misspelt_macro_suggests_the_nearest():
    with pytest.raises(ConfigError, match="`num_worker = 2` has no effect.*'num_workers'"):
        comm_lopt.load_config(["tasks/digits_mlp.gin"], ["num_worker = 2"])


def test_macro_without_a_value_suggests_the_nearest():
    bindings = ["local_sgd.learning_rate = %my_rat", "my_rate = 0.5"]
    with pytest.raises(ConfigError, match="%my_rat is used and has no value.*'my_rate'"):
        comm_lopt.load_config([], bindings)


def test_macros_that_a_later_file_or_another_command_uses_pass(tmp_path):
    _write(tmp_path, first="my_rate = 0.25\n", later="local_sgd.learning_rate = %my_rate\n")
    files = [str(tmp_path / "first.gin"), "tasks/digits_mlp.gin", str(tmp_path / "later.gin")]
    comm_lopt.load_config(files, ["num_tasks = 2"])
    assert gin.query_parameter("my_rate/macro.value") == 0.25


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'SlowMo'"):
        comm_lopt.load_config([], ["SlowMow.momentum = 0.9"])


def test_unknown_reference_suggests_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'LAggA'"):
        comm_lopt.load_config([], ["learned_optimizer = @LAgggA()"])


@pytest.mark.parametrize(
    ("binding", "nearest"),
    [
        ("SlowMo.momenta = 0.9", "momentum"),
        # The class hands its arguments on to its base.
        ("LOptA.hiden_size = 8", "hidden_size"),
        ("scope/LAggA.hiden_layers = 8", "hidden_layers"),
        ("TruncatedPESPMAP.trunc_lenght = 8", "trunc_length"),
    ],
)
def test_unknown_parameter_suggests_the_nearest(binding, nearest):
    with pytest.raises(ConfigError, match=f"did you mean '{nearest}'"):
        comm_lopt.load_config(["optimizers/lopt_a.gin"], [binding])


@gin.configurable(module="test_config")
def takes_any(**values):
    return values


@gin.configurable("named_twice", module="one")
@gin.configurable("named_twice", module="two")
def _named_twice(value=None):
    return value


def test_name_that_two_modules_have_is_a_config_error():
    with pytest.raises(ConfigError, match="Ambiguous selector 'named_twice'"):
        comm_lopt.load_config([], ["named_twice.value = 1"])


def test_parameter_of_a_function_that_takes_any_passes():
    comm_lopt.load_config([], ["takes_any.whatever = 1"])
    assert takes_any() == {"whatever": 1}


@pytest.mark.parametrize("binding", ["SlowMo.momentum = = 0.9", "SlowMo.momentum = (0.9,"])
def test_bad_syntax_is_a_config_error(binding):
    with pytest.raises(ConfigError, match="cannot be read"):
        comm_lopt.load_config([], [binding])


def test_file_that_is_no_text_is_a_config_error(tmp_path):
    (tmp_path / "mine.gin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        comm_lopt.load_config([str(tmp_path / "mine.gin")])


def test_missing_module_is_named():
    with pytest.raises(ConfigError, match="No module named 'no_such_module'.*current folder"):
        comm_lopt.load_config([], imports=["no_such_module"])


@pytest.mark.parametrize("through_gin", [False, True])
def test_module_that_fails_is_told_with_its_own_traceback(tmp_path, monkeypatch, through_gin):
    name = f"fails_{through_gin}"
    (tmp_path / f"{name}.py").write_text("x = 1\ny = x + 'a'\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    _write(tmp_path, mine=f"import {name}\n")
    with pytest.raises(ConfigError) as refused:
        if through_gin:
            comm_lopt.load_config([str(tmp_path / "mine.gin")])
        else:
            comm_lopt.load_config([], imports=[name])
    told = str(refused.value)
    assert f'{name}.py", line 2, in <module>' in told and "y = x + 'a'" in told
    assert "TypeError: unsupported operand" in told
    assert "importlib" not in told and "gin_state" not in told
