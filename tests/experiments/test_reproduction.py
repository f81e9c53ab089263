"""Experiments of the paper's claims: what they name exists, and a tiny one runs once."""

import json

import gin
import pytest
from small_experiment import EXPERIMENTS, TINY

from comm_lopt.meta_train.loop import check_fit

FOLDER = EXPERIMENTS / "reproduction"

if not FOLDER.exists():
    pytest.skip("there are no experiments beside an installed package", allow_module_level=True)

THETAS = """
[Mine]
config = ["{tiny}", "optimizers/lopt_r.gin", "meta_training.gin"]
bindings = ["num_meta_steps = 2", "num_tasks = 1", "truncation_length = 2", "min_rounds = 2",
            "max_rounds = 4", "ThetaAdamW.warmup_steps = 0", "LOptR.hidden_size = 2"]
"""
EXPERIMENT = """
title = "Tiny"
claim = "Nothing."
config = ["tiny.gin"]
num_seeds = 2
thetas = ["Mine:local_learning_rate=0.1", "again=Mine:local_learning_rate=0.2", "lopt-r-1"]

[problems.one]
title = "one"
[problems.two]
title = "two"
bindings = ["num_rounds = 6"]
num_seeds = 3
"""


@pytest.fixture
def module(modules_of):
    """Imports a module of the experiments by name."""
    return modules_of("reproduction", "generalisation")


@pytest.mark.parametrize("size", ["cpu", "paper"])
def test_every_experiment_names_baselines_thetas_and_problems_that_there_are(
    module, small_data_folder, monkeypatch, size
):
    monkeypatch.setenv("COMM_LOPT_DATA", str(small_data_folder))
    experiments = module("experiments")
    recipes = experiments.read_recipes(size)
    assert len(experiments.experiment_names()) == 5
    used = set()
    for name in experiments.experiment_names():
        experiment = experiments.read_experiment(name, size)
        assert (FOLDER / name / "README.md").exists()
        for problem in experiment.problems:
            assert problem.load().num_rounds >= (1000 if size == "paper" else 100)
            for spec in problem.thetas:
                used.add(spec.partition(":")[0])
    assert used == recipes.keys()


@pytest.mark.parametrize("size", ["cpu", "paper"])
def test_every_theta_has_a_recipe_of_its_own(module, small_data_folder, monkeypatch, size):
    monkeypatch.setenv("COMM_LOPT_DATA", str(small_data_folder))
    configs = {}
    for name, recipe in module("experiments").read_recipes(size).items():
        recipe.load()
        configs[name] = gin.config_str()
        family = gin.query_parameter("%task_family").scoped_configurable_fn()
        opt = gin.query_parameter("%learned_optimizer").scoped_configurable_fn()
        check_fit(family, opt)
    assert len({*configs.values()}) == len(configs)


def test_an_unknown_experiment_is_an_error(module):
    with pytest.raises(ValueError, match="there is no paper; choose of ablation"):
        module("experiments").read_experiment("paper")


@pytest.fixture
def tiny(module, tmp_path, monkeypatch):
    folder = tmp_path / "experiments"
    (folder / "small").mkdir(parents=True)
    (folder / "tiny.gin").write_text(TINY, encoding="utf-8")
    (folder / "small" / "experiment.toml").write_text(EXPERIMENT, encoding="utf-8")
    thetas = THETAS.format(tiny=folder / "tiny.gin")
    (folder / "thetas.toml").write_text(thetas, encoding="utf-8")
    monkeypatch.setattr(module("experiments"), "FOLDER", folder)
    return module("run")


def test_thetas_are_meta_trained_once_and_all_are_tested(
    tiny, module, tmp_path, capsys, ordinary_promotion
):
    out_dir = tmp_path / "out"
    flags = ["--out_dir", str(out_dir), "--experiments", "small"]
    assert tiny.main(flags) == 0
    told = capsys.readouterr().out
    assert "one, again: " in told and "two, Mine: " in told
    results = json.loads((out_dir / "small" / "results.json").read_text(encoding="utf-8"))
    methods = results["problems"]["two"]["results"]["methods"]
    assert {*methods} == {"Mine", "again", "LOptR"}
    assert len(methods["Mine"]["train_loss"]) == 6
    assert methods["Mine"]["theta"]["sha256"] == methods["again"]["theta"]["sha256"]
    table = (out_dir / "small" / "table.md").read_text(encoding="utf-8")
    assert table.startswith("# Tiny\n\nNothing. ±")
    assert (out_dir / "small" / "loss.png").stat().st_size > 0
    assert tiny.main(flags) == 0
    assert "one, again: " not in capsys.readouterr().out
