"""What CONTRIBUTING.md says to do is done, in a copy of the package, and what comes of it used."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from small_commands import at_small_size

from comm_lopt.theta import theta_header

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "CONTRIBUTING.md"

if not PAGE.exists():
    pytest.skip("there is no page beside an installed package", allow_module_level=True)

TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r'^```python title="(.+?)"\n(.*?)^```$', TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [line for line in TEXT.splitlines() if line.startswith("comm-lopt ")]
OF_THE_RULE = ["LOptSigns.hidden_size = 4", "meta_train.validation_every = 0"]
TOGETHER = """\
comm-lopt meta-test --config_file tasks/digits_linear.gin
--gin_bindings 'digits_linear.datasets = @bars_datasets()'
--optimizer Signum:local_opt=local_lion --theta untrained:local_learning_rate=0.1
--out_dir runs/together
"""
# All commands in one process. (A page's scripts are an extra, and take seconds to make.)
PROGRAM = """\
import contextlib, io, json, sys
import jax
import comm_lopt
from comm_lopt import cli
from comm_lopt.report import page
page._library = str
rule = comm_lopt.OPTIMIZERS["LOptSigns"].make(hidden_size=4)
comm_lopt.save_theta("untrained", rule, rule.init(jax.random.PRNGKey(0)), {})
for arguments in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = cli.main(arguments)
    print(json.dumps([status, printed.getvalue()]))
"""


def add_to_registry(path, block):
    """Puts an import and the entries of a collection where a person would put them."""
    text = path.read_text(encoding="utf-8")
    (imported,) = re.findall(r"^from .+\n", block, re.MULTILINE)
    opening, entries = re.search(
        r"^(\w+: .+? = [({]\n)(.*?)    # \.\.\.\n[)}]$", block, re.MULTILINE | re.DOTALL
    ).groups()
    future = "from __future__ import annotations\n"
    assert text.count(opening) == text.count(future) == 1
    path.write_text(
        text.replace(future, future + imported).replace(opening, opening + entries),
        encoding="utf-8",
    )


def small(command):
    arguments = shlex.split(command)[1:]
    if arguments[0] == "meta-train":
        return at_small_size(arguments, *OF_THE_RULE)
    return at_small_size(arguments) + (["--seeds", "7"] if "--config_file" in arguments else [])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The copy, with all that the page adds to it."""
    folder = tmp_path_factory.mktemp("contributed")
    for name in ("comm_lopt", "gin"):
        shutil.copytree(ROOT / name, folder / name)
    for name, block in BLOCKS:
        path = folder / name
        if path.exists():
            add_to_registry(path, block)
        else:
            path.write_text(block, encoding="utf-8")
    return folder


def run(files, commands):
    """What each command printed in the copy, with its exit status."""
    environment = {**os.environ, "PYTHONPATH": str(files)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([small(command) for command in commands]),
        capture_output=True, text=True, cwd=files, env=environment, timeout=300,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [status for status, _ in lines] == [0] * len(commands), done.stderr
    return dict(zip(commands, [text for _, text in lines], strict=True))


@pytest.fixture(scope="module")
def printed(files):
    """What the commands that list things print, and one that uses all five additions."""
    return run(files, [*(command for command in COMMANDS if "--" not in command), TOGETHER])


def test_each_addition_is_one_file_and_one_entry():
    sections = re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:-1]
    assert [section.splitlines()[0] for section in sections] == [
        "A task", "A data set", "A global optimizer", "A local optimizer", "A learned rule",
    ]  # fmt: skip
    for section in sections:
        new, registry = re.findall(r'^```python title="(.+?)"$', section, re.MULTILINE)
        assert not (ROOT / new).exists()
        assert (ROOT / registry).exists()
        assert f"`{new}`" in section and f"`{registry}`" in section


def test_code_of_the_page_is_as_the_package_is(files):
    new = [name for name, _ in BLOCKS if not (ROOT / name).exists()]
    edited = sorted({name for name, _ in BLOCKS if (ROOT / name).exists()})
    config = ["--config", str(ROOT / "pyproject.toml")]
    for arguments in (
        ["check", *new],
        ["check", "--ignore", "I001", *edited],  # Where among the imports is not said.
        ["format", "--diff", *new, *edited],
    ):
        ruff = [sys.executable, "-m", "ruff", *arguments, *config]
        done = subprocess.run(ruff, cwd=files, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("command", "row"),
    [
        ("comm-lopt tasks", r"^digits_linear +digits +650 +linear 64-10"),
        ("comm-lopt tasks", r"^  tasks/digits_linear\.gin$"),
        ("comm-lopt data", r"^bars +1,408 images .*\n +gin: bars_datasets\n +here: made when"),
        ("comm-lopt optimizers", r"^Signum +delta +local_sgd .*\n +local_learning_rate: 4, 2"),
        ("comm-lopt optimizers", r"^LOptSigns +delta "),
    ],
)
def test_what_was_added_is_listed(command, row, printed):
    assert re.search(row, printed[command], re.MULTILINE)


def test_all_that_was_added_runs_together(printed, files):
    results = read(files, "together/results.json")
    assert printed[TOGETHER]
    assert results["problem"]["task"] == "digits_linear"
    assert results["problem"]["num_parameters"] == 65 * 2  # of bars; digits have ten classes
    ran = {
        method["optimizer"]: (method["local_optimizer"], method["train_loss"])
        for method in results["methods"].values()
    }
    locally = {name: local for name, (local, _) in ran.items()}
    assert locally == {"Signum": "local_lion", "LOptSigns": "local_sgd"}
    assert all(0.1 < loss < 10 for _, losses in ran.values() for loss in losses)


@pytest.mark.slow
def test_the_commands_run_as_the_page_says_them(files):
    run(files, COMMANDS)
    assert read(files, "linear/results.json")["problem"]["task"] == "digits_linear"
    assert read(files, "bars/results.json")["problem"]["num_parameters"] == 65 * 32 + 33 * 2
    assert read(files, "lion/results.json")["methods"]["DiLoCo"]["local_optimizer"] == "local_lion"
    assert read(files, "signum/sweep.json")["method"]["optimizer"] == "Signum"
    assert theta_header(files / "runs/signs/theta")["class"] == "LOptSigns"


def read(files, name):
    return json.loads((files / "runs" / name).read_text(encoding="utf-8"))
