"""The recipe's ablation: nothing is done twice, and the summary is what the losses say."""

import json
import math

import gin
import jax
import numpy as np
import pytest
from small_experiment import EXPERIMENTS, TINY

import comm_lopt
from comm_lopt.meta_test.runs import BytesPerRound, Curves

FOLDER = EXPERIMENTS / "recipe"

if not FOLDER.exists():
    pytest.skip("there are no experiments beside an installed package", allow_module_level=True)

TINY_TRAINING = """
include 'optimizers/lopt_r.gin'
include 'meta_training.gin'
LOptR.hidden_size = 2
num_meta_steps = 2
num_tasks = 2
truncation_length = 2
min_rounds = 2
max_rounds = 4
ThetaAdamW.warmup_steps = 1
meta_train.validation_every = 0
"""


@pytest.fixture
def module(modules_of):
    """Imports a module of the experiment, or of the one that it takes some from, by name."""
    return modules_of("recipe", "generalisation")


@pytest.fixture
def tiny(module, monkeypatch, tmp_path):
    """The experiment with two lines and one selection task, all as small as can be."""
    lines, selection, grids = module("lines"), module("selection"), module("grids")
    (tmp_path / "small.gin").write_text(TINY, encoding="utf-8")
    (tmp_path / "base.gin").write_text(TINY + TINY_TRAINING, encoding="utf-8")
    made = {"base": lines.Line("none"), "alpha": lines.Line("α = 1", ("ConstantAlpha.value = 1",))}
    rate = grids.Choice("local_learning_rate", (0.1,))
    plan = grids.Plan((rate,), kept=1, refinements=0, finalists=1, num_seeds=1)
    monkeypatch.setattr(lines, "_FOLDER", tmp_path)
    monkeypatch.setattr(selection, "_FOLDER", tmp_path)
    monkeypatch.setattr(selection, "BASELINES", {"SlowMo": plan})
    run, table = module("run"), module("table")
    monkeypatch.setattr(run, "LINES", made)
    for user in (selection, run, table):
        monkeypatch.setattr(user, "TASKS", {"small": "a small task"})
    return run


@pytest.fixture
def made_up(tiny, module, monkeypatch):
    """The experiment without training; returns the labels of its test runs and meta-trainings."""
    done = []

    def meta_run(problem, method, seeds, grid=({},), *_, **__):
        done.append(method.label)
        loss = np.full((len(grid), len(seeds), problem.num_rounds), 0.5)
        end = loss[..., -1:]
        return Curves(loss, np.array([problem.num_rounds]), end, end, {}, 0.1, BytesPerRound(4, 4))

    def meta_train(folder, seed, resume, progress):
        done.append((folder.name, gin.query_parameter("LOptR.hidden_size")))
        opt = comm_lopt.LOptR(hidden_size=2)
        shapes = jax.eval_shape(opt.init, jax.random.PRNGKey(seed))
        return opt, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)

    monkeypatch.setattr(module("tuning"), "run", meta_run)
    monkeypatch.setattr(module("selection"), "run", meta_run)
    monkeypatch.setattr(tiny, "meta_train", meta_train)
    monkeypatch.setattr(tiny, "figure", lambda results: NoFigure())
    # Other tests of this process have programs too.
    monkeypatch.setattr(jax, "clear_caches", lambda: None)
    return done


class NoFigure:
    """Saves a file that is no picture."""

    def savefig(self, path, **_):
        path.write_text("drawn", encoding="utf-8")


def check_command(run, out_dir, done):
    """That it does what is missing and nothing twice."""
    flags = ["--out_dir", str(out_dir), "--seeds", "0", "--lines"]
    assert run.main([*flags, "base"]) == 0
    first = len(done)
    assert done.count("SlowMo") and done.count("LOptR") == 1
    assert run.main([*flags, "base,alpha"]) == 0
    again = done[first:]
    assert again.count("LOptR") == 1 and "SlowMo" not in again
    assert run.main([*flags, "base,alpha"]) == 0
    assert len(done) == first + len(again)
    results = json.loads((out_dir / "results.json").read_text(encoding="utf-8"))
    assert [*results["lines"]] == ["base", "alpha"]
    assert [*results["baselines"]] == ["small"]
    theta = results["lines"]["alpha"]["thetas"]["0"]
    assert np.shape(theta["losses"]["small"]["train"]) == (2, 2)
    assert theta["seconds"]["wall"] is not None
    told = (out_dir / "table.md").read_text(encoding="utf-8")
    assert "| **base** | none | 1 |" in told and "| alpha | α = 1 | 1 |" in told
    assert (out_dir / "ratios.png").stat().st_size > 0


def test_command_does_what_is_missing_and_nothing_twice(tiny, made_up, tmp_path):
    check_command(tiny, tmp_path / "out", made_up)
    assert ("base_0", 2) in made_up and ("alpha_0", 2) in made_up


@pytest.mark.slow
def test_command_trains(tiny, module, tmp_path, monkeypatch, ordinary_promotion):
    done = []
    for name in ("tuning", "selection"):
        user = module(name)
        real = user.run
        monkeypatch.setattr(
            user, "run", lambda *a, real=real, **k: done.append(a[1].label) or real(*a, **k)
        )
    check_command(tiny, tmp_path / "out", done)
    assert (tmp_path / "out" / "runs" / "base_0" / "theta" / "theta.safetensors").exists()


def test_changed_line_is_made_anew_and_one_that_fails_ends_no_other(
    tiny, made_up, module, monkeypatch, tmp_path, capsys
):
    flags = ["--out_dir", str(tmp_path / "out"), "--seeds", "0"]
    assert tiny.main(flags) == 0
    made_up.clear()
    changed = module("lines").Line("α = 3", ("ConstantAlpha.value = 3",))
    broken = module("lines").Line("broken", ("ConstantAlpha.no = 3",))
    lines = {"broken": broken, **tiny.LINES, "alpha": changed}
    monkeypatch.setattr(tiny, "LINES", lines)
    assert tiny.main([*flags, "--lines", "broken,base,alpha"]) == 1
    assert [label for label in made_up if label != "LOptR"] == [("alpha_0", 2)]
    assert "broken, 0: " in capsys.readouterr().err
    assert tiny.main([*flags, "--lines", "none"]) == 2
    assert "there is no none" in capsys.readouterr().err


def losses(train, heldout):
    return {"train": train, "heldout": heldout}


def test_summary_is_geometric_over_tasks_and_rates_and_bounded_where_a_run_diverged(module):
    summary = module("summary")
    baselines = {"a": losses([[1.0, 3.0]], [[1.0, 1.0]]), "b": losses([[0.5, 0.5]], [[2.0, 2.0]])}
    found = summary.of_theta(
        {
            # Means over seeds 1 and 4; ratios 1/2 and 2.
            "a": losses([[0.5, 1.5], [4.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]),
            "b": losses([[0.25, 0.25], [0.1, None]], [[2.0, 2.0], [None, 2.0]]),
        },
        baselines,
    )
    assert found["ratios"]["a"]["train"] == [0.5, 2.0]
    assert found["ratios"]["b"]["train"] == [0.5, summary.LARGEST_RATIO]
    assert found["train_mean"] == pytest.approx((0.5 * 2 * 0.5 * 10) ** 0.25)
    assert found["train_worst"] == pytest.approx(math.sqrt(2 * 10))
    assert found["heldout_mean"] == pytest.approx(10**0.25)
    assert found["heldout_worst"] == pytest.approx(math.sqrt(10))
    assert found["diverged_runs"] == 1


def theta_of(train_mean, wall):
    measures = {"train_worst": 1.0, "heldout_mean": 1.0, "heldout_worst": 1.0}
    ratios = {"a": {"train": [0.25, 1.0], "heldout": [train_mean, train_mean]}}
    seconds = {"wall": wall, "cpu": None}
    return {
        "train_mean": train_mean, **measures, "ratios": ratios, "diverged_runs": 2,
        "seconds": seconds,
    }  # fmt: skip


def test_line_has_means_and_deviations_over_meta_seeds(module):
    of_line = module("summary").of_line
    found = of_line({"0": theta_of(0.5, 60.0), "1": theta_of(0.9, None)})
    assert found["train_mean"] == pytest.approx(0.7)
    assert found["train_mean_std"] == pytest.approx(0.4 / math.sqrt(2))
    assert found["tasks"]["a"]["train"] == pytest.approx(0.5)
    assert found["tasks"]["a"]["heldout"] == pytest.approx(0.7)
    assert found["diverged_runs"] == 4
    assert found["seconds"] == {"wall": 60.0, "cpu": None}
    assert of_line({"0": theta_of(0.5, 60.0)})["train_mean_std"] is None


def test_table_and_figure_have_the_best_line_first(module, monkeypatch):
    table, summary = module("table"), module("summary")
    monkeypatch.setattr(table, "TASKS", {"a": "task a"})
    lines = {}
    for name, mean in (("base", 0.9), ("better", 0.5)):
        thetas = {str(seed): theta_of(mean + 0.1 * seed, 60.0) for seed in range(2)}
        lines[name] = {"change": "some", "thetas": thetas, "summary": summary.of_line(thetas)}
    results = {"lines": lines, "baselines": {}}
    told = table.table(results)
    assert told.index("| better | some | 2 | 0.550 ± 0.071 |") < told.index("| **base** |")
    training, heldout = table.figure(results).axes
    labels = [label.get_text() for label in training.get_yticklabels()]
    assert labels == ["some", "base"]
    assert training.get_yticks()[0] > training.get_yticks()[1]
    assert len(training.lines) == len(heldout.lines) == 2 * 4 + 2


def test_every_line_is_one_change_of_the_base(module):
    lines = module("lines").LINES
    configs = {}
    for name, line in lines.items():
        line.load()
        configs[name] = gin.config_str()
    assert len({*configs.values()}) == len(lines)
    used = {file for line in lines.values() for file in line.files}
    own = {path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("families/*.gin")}
    assert own == {file for file in used if file.startswith("families/")}


def test_selection_tasks_are_of_one_size_and_none_is_trained_on(
    module, small_data_folder, monkeypatch
):
    monkeypatch.setenv("COMM_LOPT_DATA", str(small_data_folder))
    selection = module("selection")
    assert {path.stem for path in (FOLDER / "selection").glob("*.gin")} == {*selection.TASKS}
    told = [selection.load(name).told for name in selection.TASKS]
    for name, problem in zip(selection.TASKS, told, strict=True):
        local_steps = 1 if name.endswith("_h1") else 4
        assert (problem["num_workers"], problem["num_local_steps"]) == (8, local_steps)
        assert (problem["num_rounds"], problem["heldout_split"]) == (100, "inner_valid")
    sizes_and_steps = {(p["num_parameters"], p["num_local_steps"]) for p in told}
    assert len(sizes_and_steps) == len(told)
    module("lines").LINES["families_4"].load()
    families = gin.query_parameter("meta_train.task_families")
    sizes = set()
    for reference in families:
        task = reference.scoped_configurable_fn().inner.sample_task(jax.random.PRNGKey(0))
        leaves = jax.tree.leaves(jax.eval_shape(task.init, jax.random.PRNGKey(0)))
        sizes.add(sum(leaf.size for leaf in leaves))
    assert len(sizes) == 4
    assert not sizes & {problem["num_parameters"] for problem in told}
