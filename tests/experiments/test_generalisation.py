"""The table of test tasks: what was done is not done again, and verdicts are what records say."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from small_experiment import EXPERIMENTS, TINY
from small_results import small_entry, small_results

import comm_lopt
from comm_lopt.meta_test.problem import Problem
from comm_lopt.meta_test.runs import BytesPerRound, Curves

FOLDER = EXPERIMENTS / "generalisation"

if not FOLDER.exists():
    pytest.skip("there are no experiments beside an installed package", allow_module_level=True)


@pytest.fixture
def module(modules_of):
    """Imports a module of the experiment by name."""
    return modules_of("generalisation")


@pytest.fixture
def tiny(module, monkeypatch, tmp_path):
    """The experiment with two problems and two baselines, all as small as can be."""
    problems, grids = module("problems"), module("grids")
    for name in ("one", "two"):
        (tmp_path / f"{name}.gin").write_text(TINY, encoding="utf-8")
    made = {
        name: problems.TestProblem(name, number, name, num_seeds=2)
        for number, name in enumerate(("one", "two"), start=1)
    }
    plan = grids.Plan((), kept=1, refinements=0, finalists=1, num_seeds=1)
    plans = {
        "LocalSGD": dataclasses.replace(plan, axes=(grids.Choice("local_learning_rate", (0.1,)),)),
        "DataParallelSGD": dataclasses.replace(plan, axes=(grids.Choice("learning_rate", (0.1,)),)),
    }
    run = module("run")
    monkeypatch.setattr(problems, "_FOLDER", tmp_path)
    monkeypatch.setattr(run, "PROBLEMS", made)
    for name in ("run", "comparison"):
        monkeypatch.setattr(module(name), "BASELINES", plans)
    return run


def made_up_run(problem, method, seeds, grid=({},), *_, **__):
    """Curves without training, of the shapes that `meta_test.run` gives."""
    shape = (len(grid), len(seeds), problem.num_rounds)
    loss = np.broadcast_to(1.0 / np.arange(1, problem.num_rounds + 1), shape)
    end = loss[..., -1:]
    return Curves(loss, np.array([problem.num_rounds]), end, end, {}, 0.1, BytesPerRound(4, 4))


def check_command(run, runs, out_dir, theta):
    """That it does what is missing and nothing twice; `runs` gets the label of each test run."""
    flags = ["--out_dir", str(out_dir), "--tasks", "one,two", "--methods"]
    assert run.main([*flags, "LocalSGD"]) == 0
    assert runs == ["LocalSGD", "LocalSGD"]
    assert run.main([*flags, "LocalSGD,DataParallelSGD"]) == 0
    assert runs == ["LocalSGD"] * 2 + ["DataParallelSGD"] * 2
    runs.clear()
    flags[3] = "one"
    spec = f"rule={theta}:local_learning_rate=0.1"
    assert run.main([*flags, "LocalSGD", "--theta", spec]) == 0
    assert runs == ["rule"]
    # With another value it is another method.
    assert run.main([*flags, "none", "--theta", spec.replace("0.1", "0.2")]) == 0
    assert runs == ["rule"] * 2

    results = json.loads((out_dir / "results.json").read_text(encoding="utf-8"))
    methods = [*results["problems"]["one"]["results"]["methods"]]
    assert methods == ["LocalSGD", "DataParallelSGD", "rule"]
    assert [*results["verdicts"]] == ["rule"]
    assert results["problems"]["one"]["tuning"]["LocalSGD"]["best"] == {"local_learning_rate": 0.1}
    assert "| 2. two |" in (out_dir / "table.md").read_text(encoding="utf-8")
    assert (out_dir / "loss.png").stat().st_size > 0


@pytest.fixture
def theta(tmp_path):
    """Folder of a random theta."""
    rule = comm_lopt.LAggR(hidden_size=2, implementation="plain")
    values = rule.init(jax.random.PRNGKey(0))
    comm_lopt.save_theta(tmp_path / "theta", rule, values, {"task": "none"})
    return tmp_path / "theta"


@pytest.fixture
def made_up(tiny, module, monkeypatch):
    """The experiment without training and drawing; returns the labels of its test runs."""
    runs, done = [], module("comparison")
    monkeypatch.setattr(module("tuning"), "run", made_up_run)
    monkeypatch.setattr(done, "run", lambda *a, **k: runs.append(a[1].label) or made_up_run(*a))
    monkeypatch.setattr(tiny, "figure", lambda problems: NoFigure())
    return runs


class NoFigure:
    """Saves a file that is no picture."""

    def savefig(self, path, **_):
        path.write_text("drawn", encoding="utf-8")


def test_command_does_what_is_missing_and_nothing_twice(tiny, made_up, theta, tmp_path):
    check_command(tiny, made_up, tmp_path / "out", theta)


@pytest.mark.slow
def test_command_trains(tiny, module, theta, tmp_path, monkeypatch, ordinary_promotion):
    done = module("comparison")
    runs, real = [], done.run
    monkeypatch.setattr(done, "run", lambda *a, **k: runs.append(a[1].label) or real(*a, **k))
    check_command(tiny, runs, tmp_path / "out", theta)


def test_another_problem_of_the_same_name_is_run_anew(tiny, made_up, tmp_path):
    out_dir = tmp_path / "out"
    flags = ["--out_dir", str(out_dir), "--tasks", "one", "--methods", "LocalSGD"]
    assert tiny.main(flags) == tiny.main([*flags[:-1], "DataParallelSGD"]) == 0
    (tmp_path / "one.gin").write_text(f"{TINY}num_local_steps = 2\n", encoding="utf-8")
    assert tiny.main(flags) == 0 and tiny.main(flags) == 0
    assert made_up == ["LocalSGD", "DataParallelSGD", "LocalSGD"]
    # What is of the earlier problem does not stand beside it.
    results = json.loads((out_dir / "results.json").read_text(encoding="utf-8"))
    assert [*results["problems"]["one"]["results"]["methods"]] == ["LocalSGD"]


def test_what_was_tuned_before_is_only_tested_while_the_problem_is_the_same(
    tiny, module, made_up, tmp_path, monkeypatch
):
    flags = ["--tasks", "one", "--methods", "LocalSGD", "--out_dir"]
    assert tiny.main([*flags, str(tmp_path / "before")]) == 0
    record = json.loads((tmp_path / "before" / "one" / "LocalSGD.json").read_text("utf-8"))

    tuned, real = [], module("tuning").tune
    monkeypatch.setattr(module("comparison"), "tune", lambda *a: tuned.append(a[1]) or real(*a))
    reused = ["--tuned", str(tmp_path / "before")]
    assert tiny.main([*flags, str(tmp_path / "after"), *reused]) == 0
    assert not tuned and made_up == ["LocalSGD"] * 2
    again = json.loads((tmp_path / "after" / "one" / "LocalSGD.json").read_text("utf-8"))
    assert again["description"] == record["description"]
    assert again["tuning"] == record["tuning"]
    assert again["results"]["methods"] == record["results"]["methods"]

    (tmp_path / "one.gin").write_text(f"{TINY}num_local_steps = 2\n", encoding="utf-8")
    assert tiny.main([*flags, str(tmp_path / "other"), *reused]) == 0
    assert len(tuned) == 1


def test_method_that_fails_ends_no_other_and_the_command_says_so(
    tiny, module, made_up, tmp_path, monkeypatch, capsys
):
    def tune(problem, method, *rest):
        if method.label == "LocalSGD":
            raise ValueError("every point diverged")
        return real(problem, method, *rest)

    real = module("comparison").tune
    monkeypatch.setattr(module("comparison"), "tune", tune)
    assert tiny.main(["--out_dir", str(tmp_path / "out"), "--tasks", "one"]) == 1
    assert made_up == ["DataParallelSGD"]
    assert "one, LocalSGD: every point diverged" in capsys.readouterr().err
    assert tiny.main(["--out_dir", str(tmp_path / "out"), "--tasks", "three"]) == 2
    assert "there is no three" in capsys.readouterr().err


@pytest.fixture
def bowl(module, monkeypatch):
    """Tunes on a made-up loss of two hyperparameters; returns what was found and the runs."""
    tuning, grids = module("tuning"), module("grids")
    problem = Problem(comm_lopt.digits_mlp(), num_workers=2, num_local_steps=1, num_rounds=100)

    class Made:
        def __init__(self, losses, seeds):
            self.final_train_loss = np.repeat(np.array(losses)[:, None], len(seeds), 1)
            self.diverged = ~np.isfinite(self.final_train_loss)

    def tune(loss, plan, rounds=None):
        calls = []

        def run(problem, method, seeds, grid, *_, **__):
            calls.append((problem.num_rounds, tuple(seeds), len(grid)))
            return Made([loss(**point) for point in grid], seeds)

        monkeypatch.setattr(tuning, "run", run)
        method = comm_lopt.hand_designed("LocalSGD")
        return tuning.tune(problem, method, plan, rounds), calls

    return tune, grids


def test_tuning_goes_beyond_the_edge_and_between_the_points(bowl):
    tune, grids = bowl
    plan = grids.Plan((grids.Axis("x", 1.0, 4.0, 3), grids.Axis("y", 0.05, 2.0, 3, True)))
    # The least x of the grid is 1, and there are 0.8 and 0.9 between 0.75 and 0.95 for y.
    found, calls = tune(lambda x, y: abs(x - 0.25) + abs(y - 0.929), plan)
    assert found.best == {"x": 0.25, "y": 0.929}
    assert not found.on_edge
    assert calls[0] == (25, (0,), 9) and calls[1] == (100, (0,), 6)
    assert calls[-1] == (100, (1, 2), 3)
    assert {seeds for _, seeds, _ in calls[:-1]} == {(0,)}


def test_tuning_says_where_the_best_is_still_on_an_edge_and_passes_over_what_diverges(bowl):
    tune, grids = bowl
    plan = grids.Plan((grids.Axis("x", 1.0, 2.0, 3),)).lean()
    found, calls = tune(lambda x: x if x > 1 / 16 else float("inf"), plan, rounds=40)
    assert found.best == {"x": 0.125}
    assert calls[0][:2] == (10, (0,)) and calls[-1] == (100, (1,), 2)
    found, calls = tune(lambda x: -x, plan.leanest())
    assert found.on_edge == ["x"]
    assert {seeds for _, seeds, _ in calls} == {(0,)}
    with pytest.raises(ValueError, match="every point of LocalSGD diverged"):
        tune(lambda x: float("inf"), plan)


def results_of(learned, heldout=0.5, local=0.4, adam=0.3, diverged=(), falling=None):
    """A problem's results: a learned method at a loss, after two of three rounds at Local SGD's."""
    entries = {
        "LocalSGD": small_entry(final=local),
        "SlowMo": small_entry(final=local),
        "DiLoCo": small_entry(final=local),
        "DataParallelAdam": small_entry(final=adam, sends="gradient"),
        "rule": small_entry(final=learned, learned=True, diverged=diverged),
    }
    if falling is not None:
        entries["MuLoCoLinear"] = small_entry(final=falling)
        entries["MuLoCoLinear"]["heldout"]["loss"] = falling
    results = small_results(entries)
    names = ("LocalSGD", "SlowMo", "DiLoCo")
    results["targets"] = {f"final_loss_of_{name}": local for name in names}
    for entry in entries.values():
        entry["rounds_to"] = dict.fromkeys(results["targets"])
    rule = entries["rule"]
    rule["heldout"] = {**rule["heldout"], "loss": heldout}
    if learned <= local:
        rule["rounds_to"] = dict.fromkeys(results["targets"], 2)
    return results


def test_verdicts_count_tasks_of_which_every_variant_came_so(module):
    tasks = {"a": 1, "b": 1, "c": 2, "d": 3}
    all_results = {
        "a": results_of(0.2, heldout=0.3, falling=0.1),
        "b": results_of(0.35, heldout=0.31),
        "c": results_of(0.5, heldout=0.305, diverged=[2]),
    }
    found = module("verdicts").verdicts(tasks, all_results)["rule"]
    by_text = {verdict["criterion"]: verdict for verdict in found}
    won = {text: (v["tasks_won"], v["variants_won"], v["lost"]) for text, v in by_text.items()}
    assert won == {
        "final training loss below every tuned baseline of local steps": (0, 1, ["a", "c"]),
        "the same but for MuLoCoLinear, whose γ falls over T": (1, 2, ["c"]),
        # Two of three rounds are more than half.
        "tuned Local SGD's final loss in at most half the rounds": (0, 0, ["a", "b", "c"]),
        "tuned SlowMo's final loss in at most 0.75 of the rounds": (1, 2, ["c"]),
        "tuned DiLoCo's final loss in at most 0.75 of the rounds": (1, 2, ["c"]),
        "all of these": (0, 0, ["a", "b", "c"]),
        "all of these but for MuLoCoLinear": (0, 0, ["a", "b", "c"]),
        "final training loss below tuned data-parallel Adam's": (0, 1, ["b", "c"]),
        "final training loss below every tuned baseline, data-parallel ones included": (
            0, 0, ["a", "b", "c"],
        ),
        "held-out loss at most 2 % above the best baseline's": (1, 1, ["a", "b"]),
        "the same but for MuLoCoLinear": (1, 2, ["b"]),
        "no seed diverged": (1, 2, ["c"]),
    }  # fmt: skip
    assert {v["tasks_measured"] for v in found} == {2}  # The third task has not been run.
    assert not any(verdict["met"] for verdict in found)


def test_spread_over_local_learning_rates_is_of_one_theta_alone(module):
    results = results_of(0.2)
    other = {"path": "/other", "sha256": "01"}
    entries = {
        (rate, final): small_entry(final=final, learned=True, hparams={"local_learning_rate": rate})
        for rate, final in ((0.3, 0.5), (0.1, 0.4), (1.0, 0.6))
    }
    entries[1.0, 0.6]["theta"] = other
    results["methods"] |= {f"at {rate}": entry for (rate, _), entry in entries.items()}
    (spread,) = module("verdicts").rate_spreads({"a": results})
    assert spread["losses"] == [[0.1, 0.4], [0.3, 0.5]]
    assert spread["worst_over_best"] == pytest.approx(1.25)
    results["methods"]["at 0.1"]["diverged_seeds"] = [1]
    (spread,) = module("verdicts").rate_spreads({"a": results})
    assert spread["losses"] == [[0.1, None], [0.3, 0.5]] and spread["worst_over_best"] is None


def test_every_problem_says_what_it_is_called(module):
    problems = module("problems").PROBLEMS
    assert sorted({problem.task for problem in problems.values()}) == list(range(1, 11))
    assert {path.stem for path in (FOLDER / "tasks").glob("*.gin")} == {*problems}
    plans = module("grids").BASELINES
    assert all(name in plans for p in problems.values() for name in (*p.lean, *p.leanest))
    tuned = {
        name: {axis.name for axis in plan.axes} <= {*comm_lopt.hand_designed(name).hparams}
        for name, plan in plans.items()
    }
    assert all(tuned.values())


def test_best_of_a_row_is_bold_and_missing_methods_are_empty(module):
    problem = {"task": 1, "title": "a task", "results": results_of(0.2), "tuning": {},
               "cpu_seconds": {"rule": {"test": 2.0}}}  # fmt: skip
    summary = {"problems": {"a": problem}, "verdicts": {}, "rate_spreads": []}
    row = next(
        r for r in module("table").table(summary).splitlines() if r.startswith("| 1. a task")
    )
    assert row.endswith("| **0.2 ± 0.012** |")
    assert row.count("**") == 2


def test_figure_has_a_panel_a_problem_and_one_colour_a_method(module):
    problems = {
        name: {"title": name, "results": results_of(0.2)} for name in ("mlp", "conv", "digits")
    }
    for problem in problems.values():
        for label, entry in problem["results"]["methods"].items():
            entry["optimizer"] = "LOptR" if label == "rule" else label
    del problems["mlp"]["results"]["methods"]["LocalSGD"]
    picture = module("table").figure(problems)
    panels = [axes for axes in picture.axes if axes.lines]
    assert [axes.get_title() for axes in panels] == ["mlp", "conv"]
    colours = [{line.get_label(): line.get_color() for line in axes.lines} for axes in panels]
    assert colours[0].items() < colours[1].items()
    assert len(set(colours[1].values())) == 5
    (legend,) = picture.legends
    assert {text.get_text() for text in legend.get_texts()} == {*colours[1]}
