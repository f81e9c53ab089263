"""The command line, as a user runs it, in a temporary folder."""

import csv
import json
import subprocess
import sys

import gin
import pytest

import comm_lopt
from comm_lopt.cli import main

TASK = ["--config_file", "tasks/digits_mlp.gin"]
SMALL = [
    flag
    for binding in ("num_rounds = 4", "num_workers = 2", "digits_datasets.batch_size = 4")
    for flag in ("--gin_bindings", binding)
]
SMALL_TRAINING = [
    flag
    for binding in (
        "num_tasks = 2",
        "truncation_length = 2",
        "num_meta_steps = 2",
        "ThetaAdamW.warmup_steps = 1",
        "stack_antithetic_samples = True",  # One program to compile, not two.
        "LOptA.hidden_size = 4",
    )
    for flag in ("--gin_bindings", binding)
]
COMMANDS = [
    "meta-train", "meta-test", "sweep", "config", "run-train", "convert", "tasks", "optimizers",
    "pretrained", "data",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _as_users_have_it(ordinary_promotion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    gin.clear_config()


def _comm_lopt(*arguments):
    command = [sys.executable, "-m", "comm_lopt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_meta_train_sweep_and_meta_test_one_after_another(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    trained = _comm_lopt(
        "meta-train", "--config_file", "experiments/digits.gin", *SMALL, *SMALL_TRAINING,
        "--train_log_dir", "lopt_a",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "lopt_a/theta" in trained.stdout
    assert "meta_loss=" in trained.stderr and "meta-step 2 of 2" in trained.stderr
    assert "Warning" not in trained.stderr

    swept = main(
        ["sweep", *TASK, *SMALL, "--optimizer", "SlowMo:slow_learning_rate=1", "--seeds", "0,1",
         "--out_dir", "slowmo", "--grid", "momentum=0.5,0.9", "--grid",
         "local_learning_rate=0.5,0.1"]
    )  # fmt: skip
    assert swept == 0
    assert "best point lies on the edge of its grid (" in capsys.readouterr().err
    saved = json.loads((tmp_path / "slowmo" / "sweep.json").read_text(encoding="utf-8"))
    assert len(saved["points"]) == 4
    losses = [point["final_train_loss"] for point in saved["points"]]
    assert saved["best"] == saved["points"][losses.index(min(losses))]["hparams"]
    assert saved["on_edge"] == saved["best"] and saved["problem"]["num_rounds"] == 4

    swept = main(
        ["sweep", *TASK, *SMALL, "--theta", "small=lopt_a/theta", "--grid",
         "local_learning_rate=0.5,0.1", "--seeds", "0", "--out_dir", "~/lopt_a_swept"]
    )  # fmt: skip
    assert swept == 0 and (tmp_path / "lopt_a_swept" / "sweep.json").exists()

    tested = main(
        ["meta-test", *TASK, *SMALL, "--theta", "lopt_a/theta", "--theta",
         "slow=lopt_a/theta:local_learning_rate=0.01", "--tuned", "slowmo", "--tuned",
         "~/lopt_a_swept", "--optimizer", "LocalSGD:local_learning_rate=0.3", "--target",
         "easy<$100=100", "--seeds", "7,8", "--out_dir", "out"]
    )  # fmt: skip
    assert tested == 0
    results = comm_lopt.meta_test.read_results("out")
    methods = results["methods"]
    assert set(methods) == {"LOptA", "slow", "small", "SlowMo", "LocalSGD"}
    assert [label for label, entry in methods.items() if entry["learned"]] == [
        "LOptA", "slow", "small",
    ]  # fmt: skip
    used = {**methods["SlowMo"]["hparams"], **saved["best"], "slow_learning_rate": 1}
    assert methods["SlowMo"]["hparams"] == used
    assert methods["SlowMo"]["sources"]["momentum"] == "sweep slowmo"
    rates = {
        label: (entry["hparams"]["local_learning_rate"], entry["sources"]["local_learning_rate"])
        for label, entry in methods.items()
    }
    assert rates["LOptA"] == (0.5, "theta's header") and rates["slow"] == (0.01, "given")
    assert rates["LocalSGD"] == (0.3, "given")
    assert rates["small"][1] == f"sweep {tmp_path / 'lopt_a_swept'}"
    assert methods["LOptA"]["theta"] == comm_lopt.theta.theta_file("lopt_a/theta")
    assert methods["LocalSGD"]["rounds_to"]["easy<$100"] == 1
    assert results["problem"]["num_workers"] == 2
    assert results["problem"]["settings"]["digits_datasets.batch_size"] == "4"
    with (tmp_path / "out" / "curves.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 2 * 4
    first = [float(row["train_loss"]) for row in rows if row["round"] == "1"][:2]
    assert sum(first) / 2 == pytest.approx(methods["LOptA"]["train_loss"][0])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".lock", "results.json", "curves.csv", "loss.png", "table.md", "page.html",
    }  # fmt: skip

    refused = ["meta-test", *TASK, *SMALL, "--tuned", "slowmo", "--out_dir", "other"]
    assert main([*refused, "--seeds", "1,2"]) == 2
    assert "has seen the seeds 1," in capsys.readouterr().err
    assert main([*refused, "--gin_bindings", "num_workers = 3"]) == 2
    assert "num_workers: 2 there, 3 here" in capsys.readouterr().err


def test_picture_that_cannot_be_drawn_costs_no_results(tmp_path, monkeypatch, capsys):
    def fails(*arguments):
        raise ValueError("no picture")

    monkeypatch.setattr(comm_lopt.report, "loss_figure", fails)
    arguments = ["meta-test", *TASK, *SMALL, "--optimizer", "LocalSGD", "--out_dir", "out"]
    assert main([*arguments, "--seeds", "7"]) == 2
    assert "no picture" in capsys.readouterr().err
    assert set(comm_lopt.meta_test.read_results("out")["methods"]) == {"LocalSGD"}
    assert (tmp_path / "out" / "table.md").exists() and (tmp_path / "out" / "curves.csv").exists()


def test_method_that_fails_costs_no_results_of_those_before_it(tmp_path, monkeypatch):
    ran = comm_lopt.meta_test.run

    def run(problem, method, seeds):
        if method.label == "FedAvgM":
            raise MemoryError("no room for FedAvgM")
        return ran(problem, method, seeds)

    monkeypatch.setattr(comm_lopt.meta_test, "run", run)
    methods = ["--optimizer", "LocalSGD:local_learning_rate=0.1", "--optimizer", "FedAvgM"]
    with pytest.raises(MemoryError, match="no room"):
        main(["meta-test", *TASK, *SMALL, *methods, "--seeds", "0", "--out_dir", "results"])
    results = comm_lopt.meta_test.read_results(tmp_path / "results")
    assert list(results["methods"]) == ["LocalSGD"]


def test_upstreams_own_learned_optimizer_is_meta_trained_resumed_and_compared(tmp_path):
    own = ["--gin_import", "learned_optimization.learned_optimizers.adafac_mlp_lopt"]
    training = [
        "meta-train", *TASK, "--config_file", "meta_training.gin", *own, *SMALL,
        *SMALL_TRAINING[:-2], "--gin_bindings", "learned_optimizer = @AdafacMLPLOpt()",
        "--gin_bindings", "AdafacMLPLOpt.hidden_size = 5", "--no_progress",
        "--train_log_dir", "adafac",
    ]  # fmt: skip
    assert main(training) == 0
    assert main([*training, "--resume", "--gin_bindings", "num_meta_steps = 3"]) == 0
    assert comm_lopt.load_theta("adafac/theta")[2]["meta_steps"] == 3
    testing = ["meta-test", *TASK, *own, *SMALL, "--seeds", "7", "--out_dir", "out"]
    assert main([*testing, "--theta", "mine=adafac/theta"]) == 0
    entry = comm_lopt.meta_test.read_results("out")["methods"]["mine"]
    assert entry["optimizer"] == "AdafacMLPLOpt" and entry["learned"]
    assert entry["sources"]["local_learning_rate"] == "theta's header"


OWN_MODULE = """
import gin, optax
@gin.configurable
def sign_descent(learning_rate=0.01):
    return optax.chain(optax.scale_by_sign(), optax.sgd(learning_rate))
"""


def test_own_optimizer_and_own_local_optimizer_come_in_through_gin(tmp_path, monkeypatch):
    (tmp_path / "my_optimizers.py").write_text(OWN_MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["meta-test", *TASK, *SMALL, "--gin_import", "my_optimizers"]
    arguments += ["--gin_bindings", "sign_descent.learning_rate = 0.02"]
    arguments += ["--optimizer", "mine=sign_descent", "--optimizer", "sign_descent:learning_rate=1"]
    arguments += ["--optimizer", "inside=LocalSGD:local_opt=sign_descent"]
    assert main([*arguments, "--seeds", "7", "--out_dir", "out"]) == 0
    methods = comm_lopt.meta_test.read_results("out")["methods"]
    assert methods["mine"]["hparams"]["learning_rate"] == 0.02
    assert methods["mine"]["sources"]["learning_rate"] == "gin"
    assert methods["sign_descent"]["hparams"]["learning_rate"] == 1
    assert methods["inside"]["local_optimizer"] == "sign_descent"
    assert methods["inside"]["hparams"]["local_learning_rate"] == 0.02


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"comm-lopt {command}" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["comm_lopt.meta_train", "comm_lopt.meta_test"])
def test_module_runs_as_its_command(module):
    command = [sys.executable, "-m", module, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0
    assert f"usage: comm-lopt {module.split('.')[1].replace('_', '-')}" in result.stdout


def test_tasks_lists_tasks_and_gin_files(capsys):
    assert main(["tasks"]) == 0
    printed = capsys.readouterr().out
    for name in (*comm_lopt.TASKS, *comm_lopt.shipped_gin_files()):
        assert name in printed
    for entry in comm_lopt.TASKS.values():
        for column in (entry.data, f"{entry.num_parameters:,}", entry.summary, entry.paper):
            assert column in printed


def test_optimizers_lists_them_with_their_grids(capsys):
    assert main(["optimizers"]) == 0
    printed = capsys.readouterr().out
    for name, entry in comm_lopt.OPTIMIZERS.items():
        (line,) = [line for line in printed.splitlines() if line.startswith(f"{name} ")]
        assert entry.summary in line and entry.source in line
        assert ("a gradient" in line) == (entry.sends == "gradient")
        assert (entry.local_opt in line) == (entry.sends != "gradient")
    assert "momentum: 0.95" in printed and "local_learning_rate: 4, 2" in printed


BAD = {
    "unknown optimizer": (
        ["meta-test", *TASK, "--optimizer", "SlowMomo", "--out_dir", "o"],
        "did you mean 'SlowMo'?",
    ),
    "unknown hyperparameter": (
        ["meta-test", *TASK, "--optimizer", "SlowMo:momentun=0.9", "--out_dir", "o"],
        "did you mean 'momentum'?",
    ),
    "hyperparameter without value": (
        ["meta-test", *TASK, "--optimizer", "SlowMo:momentum", "--out_dir", "o"],
        "KEY=VALUE",
    ),
    "hyperparameter that is no number": (
        ["meta-test", *TASK, "--optimizer", "SlowMo:momentum=big", "--out_dir", "o"],
        "momentum='big' is not a number",
    ),
    "learned optimizer without theta": (
        ["meta-test", *TASK, "--optimizer", "LOptA", "--out_dir", "o"],
        "meta-train one",
    ),
    "missing theta": (
        ["meta-test", *TASK, "--theta", "nowhere", "--out_dir", "o"],
        "no theta at nowhere",
    ),
    "missing sweep": (
        ["meta-test", *TASK, "--tuned", "nowhere", "--out_dir", "o"],
        "no sweep.json in nowhere",
    ),
    "nothing to compare": (["meta-test", *TASK, "--out_dir", "o"], "nothing to compare"),
    "an optimizer twice": (
        ["meta-test", *TASK, "--optimizer", "LocalSGD", "--optimizer",
         "LocalSGD:local_learning_rate=1", "--out_dir", "o"],
        "LocalSGD is given twice; give each a label of its own, as in LocalSGD2=",
    ),
    "a name that no table can show": (
        ["meta-test", *TASK, "--optimizer", "LocalSGD", "--target", f"{'x' * 300}=1",
         "--out_dir", "o"],
        "1 to 200 printable characters",
    ),
    "a value outside its interval": (
        ["meta-test", *TASK, "--optimizer", "SlowMo:momentum=2", "--out_dir", "o"],
        "momentum=2 lies outside [0.0, 1.0)",
    ),
    "participation with one worker": (
        ["meta-test", *TASK, "--gin_bindings", "participation = 0.5", "--optimizer", "DiLoCoK1",
         "--out_dir", "o"],
        "DiLoCoK1 has one worker and participation=0.5",
    ),
    "a grid for a value that is given": (
        ["sweep", *TASK, "--optimizer", "SlowMo:momentum=0.5", "--grid", "momentum=0.9",
         "--out_dir", "o"],
        "momentum is fixed at 0.5",
    ),
    "unknown gin file": (
        ["meta-test", "--config_file", "tasks/digits.gin", "--out_dir", "o"],
        "did you mean 'tasks/digits_mlp.gin'?",
    ),
    "zero rounds": (
        ["sweep", *TASK, "--gin_bindings", "num_rounds = 0", "--optimizer", "LocalSGD",
         "--out_dir", "o"],
        "num_rounds=0: the number of rounds must be at least 1",
    ),
    "zero workers": (
        ["sweep", *TASK, "--gin_bindings", "num_workers = 0", "--optimizer", "LocalSGD",
         "--out_dir", "o"],
        "num_workers=0",
    ),
    "batch larger than the data": (
        ["sweep", *TASK, "--gin_bindings", "digits_datasets.batch_size = 2000", "--optimizer",
         "LocalSGD", "--out_dir", "o"],
        "a split of 1437 examples is smaller than one batch of batch_size=2000",
    ),
    "sweep of nothing": (["sweep", *TASK, "--out_dir", "o"], "--optimizer and --theta"),
    "unknown grid key": (
        ["sweep", *TASK, "--optimizer", "LocalSGD", "--grid", "rate=1", "--out_dir", "o"],
        "no hyperparameter 'rate'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_answered_with_value_rule_and_fix(case, capsys):
    arguments, told = BAD[case]
    assert main(arguments) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "marker"), [("meta-test", "results.json"), ("sweep", "sweep.json")]
)
def test_out_dir_of_another_run_is_refused(tmp_path, command, marker, capsys):
    (tmp_path / marker).write_text("{}", encoding="utf-8")
    arguments = [command, *TASK, "--optimizer", "LocalSGD", "--out_dir", str(tmp_path)]
    assert main(arguments) == 2
    assert f"holds another run's {marker}" in capsys.readouterr().err


@pytest.mark.parametrize("place", [0, 1, 5])
def test_debug_shows_the_traceback_wherever_it_stands(place, capsys):
    arguments = ["meta-test", *TASK, "--out_dir", "o"]
    assert main([*arguments[:place], "--debug", *arguments[place:]]) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told and "nothing to compare" in told


def test_gin_import_finds_modules_of_the_current_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "my_broken_task.py").write_text("None + 1\n", encoding="utf-8")
    arguments = ["meta-test", *TASK, "--optimizer", "LocalSGD", "--out_dir", "o"]
    assert main([*arguments, "--gin_import", "my_broken_task"]) == 2
    told = capsys.readouterr().err
    assert 'my_broken_task.py", line 1, in <module>' in told and "TypeError" in told
