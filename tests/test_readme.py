"""The README stays true: its example runs, its commands and names exist."""

import pathlib
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_commands import at_small_size

import comm_lopt
from comm_lopt import cli
from comm_lopt.report import page

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"

if not README.exists():
    pytest.skip("there is no README beside an installed package", allow_module_level=True)

TEXT = README.read_text(encoding="utf-8")
COMMANDS = [line for line in TEXT.splitlines() if line.startswith("comm-lopt ")]
SHIPPED, WRAPPING, IN_OPTAX = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_example_of_one_that_ships_runs(ordinary_promotion):
    names = {}
    exec(compile(SHIPPED, str(README), "exec"), names)
    params = {"w": jnp.ones((3, 2))}
    state = names["optimizer"].init(params)
    updates, _ = jax.jit(names["optimizer"].update)(params, state, params)
    assert np.all(np.asarray(updates["w"]) < 0)


def test_example_of_wrapping_a_task_runs(ordinary_promotion, capsys):
    exec(compile(WRAPPING, str(README), "exec"), {})
    assert re.search(r"meta-loss 2\.\d+", capsys.readouterr().out)


def test_example_of_a_rule_in_optax_runs(ordinary_promotion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learned_opt = comm_lopt.LOptA(step_multiplier=0.1)
    theta = learned_opt.init(jax.random.PRNGKey(0))
    comm_lopt.save_theta("runs/lopt_a/theta", learned_opt, theta, {"task": "none"})
    start = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    names = {"params": start, "mean_of_workers": lambda p: jax.tree.map(lambda x: 0.9 * x - 0.1, p)}
    exec(compile(IN_OPTAX, str(README), "exec"), names)
    assert int(names["state"][0].inner.count) == 3
    for name, leaf in names["params"].items():
        assert np.all(np.isfinite(leaf)) and np.all(leaf != start[name])


def test_commands_run_one_after_another(
    ordinary_promotion, small_data_folder, tmp_path, monkeypatch, capsys
):
    # Its scripts are an extra, and take seconds to make.
    monkeypatch.setattr(page, "_library", str)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMM_LOPT_DATA", str(small_data_folder))
    assert [command.split()[1] for command in COMMANDS] == [
        "meta-train", "sweep", "meta-test", "report", "tasks", "optimizers", "pretrained", "data",
        "launch",
    ]  # fmt: skip
    for command in COMMANDS:
        arguments = at_small_size(shlex.split(command)[1:])
        assert cli.main(arguments) == 0, capsys.readouterr().err
    assert (tmp_path / "runs" / "comparison" / "results.json").exists()


def test_make_targets_exist():
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z-]+)", TEXT):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_named_files_exist():
    linked = re.findall(r"\]\(((?!http)[^)]+)\)", TEXT)
    assert linked
    assert all((README.parent / path.partition("#")[0]).exists() for path in linked)
