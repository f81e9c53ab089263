"""Several processes over gloo, and eight devices: one run, one collective phase, one loss."""

import csv
import io
import os
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from comm_lopt.cli.launch import free_port, launch
from comm_lopt.train import ProcessError, joined
from comm_lopt.train.programs import Collective, collectives_in

GIN = """
include 'tasks/digits_mlp.gin'
digits_mlp.hidden_sizes = (8,)
partition = @IIDParts()
num_workers = 8
num_local_steps = 2
num_rounds = 20
train.checkpoint_every = 10
"""

# Tells how many examples of each split are in memory when the process ends.
COUNTED = """
import atexit
import comm_lopt, gin


@gin.configurable
def counted_digits():
    datasets = comm_lopt.digits_datasets()
    splits = lambda: datasets.examples.splits.items()
    atexit.register(lambda: print("held:", {name: len(part["label"]) for name, part in splits()}))
    return datasets
"""

SIMULATION = """
import sys
import comm_lopt, numpy as np
from comm_lopt.cli.method_specs import method_of_theta
from comm_lopt.meta_test import meta_test_problem, run
comm_lopt.load_config([sys.argv[1]])
curves = run(meta_test_problem(), method_of_theta("lagg-r-1"), [0], evaluations="end")
np.save(sys.argv[2], curves.train_loss[0, 0])
"""


@pytest.fixture(scope="module")
def gin_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("processes") / "task.gin"
    path.write_text(GIN, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def simulated(gin_file):
    out = gin_file.with_name("losses.npy")
    command = [sys.executable, "-c", SIMULATION, str(gin_file), str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    return np.load(out)


def losses(folder: pathlib.Path):
    with (folder / "rounds.csv").open(newline="", encoding="utf-8") as file:
        return np.array([float(row["train_loss"]) for row in csv.DictReader(file)])


def command(gin_file, folder, *more):
    flags = ["--config_file", str(gin_file), "--theta", "lagg-r-1", "--out_dir", str(folder)]
    return ["train", *flags, "--no_progress", *more]


def test_two_processes_have_the_losses_of_the_simulation_and_one_goes_on_from_them(
    gin_file, simulated, tmp_path, monkeypatch
):
    """Each of two holds what its four workers draw; one alone does not part with anything."""
    (tmp_path / "counted.py").write_text(COUNTED, encoding="utf-8")
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    counted = ["--gin_import=counted", "--gin_bindings=digits_mlp.datasets = @counted_digits()"]
    out = io.StringIO()
    shorter = command(gin_file, tmp_path, *counted, "--gin_bindings", "num_rounds = 10")
    launch(shorter, 2, out, io.StringIO())
    assert "[0] LAggR trains digits_mlp: 8 workers on 2 devices of 2 processes" in out.getvalue()
    np.testing.assert_allclose(losses(tmp_path), simulated[:10], rtol=1e-5)
    for number, examples in enumerate((720, 717)):
        assert f"[{number}] held: {{'train': {examples}}}" in out.getvalue()
    launch(command(gin_file, tmp_path, *counted, "--resume"), 1, out, io.StringIO())
    np.testing.assert_allclose(losses(tmp_path), simulated, rtol=1e-5)
    assert "[0] held: {'train': 1437, 'inner_valid': " in out.getvalue()


@pytest.mark.slow
def test_four_processes_have_the_losses_of_the_simulation_and_fail_together(
    gin_file, simulated, tmp_path
):
    """Two workers each. What process 0 alone finds, here an earlier run, ends all."""
    shorter = command(gin_file, tmp_path, "--gin_bindings", "num_rounds = 4")
    launch(shorter, 4, io.StringIO(), io.StringIO())
    np.testing.assert_allclose(losses(tmp_path), simulated[:4], rtol=1e-5)
    err = io.StringIO()
    with pytest.raises(ProcessError, match="process 0 of 4 ended with exit code 2"):
        launch(shorter, 4, io.StringIO(), err)
    for number in range(1, 4):
        assert f"[{number}] comm-lopt train: process {number} ends because" in err.getvalue()
    assert "process 0: FileExistsError: " in err.getvalue()


def start(number, arguments, address, num_processes=2, **more):
    """A process of a run, by itself."""
    program = "import sys; from comm_lopt.cli import main; sys.exit(main(sys.argv[1:]))"
    flags = {
        "--coordinator_address": address,
        "--num_processes": str(num_processes),
        "--process_id": str(number),
    }
    joining = [text for flag in flags.items() for text in flag]
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments, *joining],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def ended(started):
    """(exit code, what it told) of processes."""
    told = [process.communicate(timeout=120)[1] for process in started]
    return list(zip((process.returncode for process in started), told, strict=True))


def test_processes_of_different_runs_say_what_differs(gin_file, tmp_path):
    address = f"localhost:{free_port()}"
    arguments = [command(gin_file, tmp_path, "--seed", str(number)) for number in range(2)]
    for code, text in ended([start(number, arguments[number], address) for number in range(2)]):
        assert code == 7
        assert "processes 0 and 1 are not of one run" in text
        assert "seed: 0 in process 0, 1 in process 1" in text


def test_what_one_process_cannot_read_ends_all_with_its_error(gin_file, tmp_path):
    """A data set that process 0 has and process 1 lacks: otherwise 0 would wait for 1."""
    images = np.zeros((100, 8, 8), np.uint8)
    np.savez(tmp_path / "data.npz", image=images, label=np.arange(100) % 10)
    data = tmp_path / "data.gin"
    data.write_text(
        f"include '{gin_file}'\ndigits_mlp.datasets = @npz_datasets()\n"
        "npz_datasets.path = 'data.npz'\nnpz_datasets.batch_size = 4\n",
        encoding="utf-8",
    )
    (tmp_path / "empty").mkdir()
    address, arguments = f"localhost:{free_port()}", command(data, tmp_path / "run")
    folders = [tmp_path, tmp_path / "empty"]
    begin = time.monotonic()
    one, other = ended([start(n, arguments, address, cwd=folders[n]) for n in range(2)])
    assert time.monotonic() - begin < 60
    assert one[0] == 7
    assert re.search(r"another failed; .*\n  process 1: FileNotFoundError: .*data\.npz", one[1])
    assert other[0] == 2 and "there is no file" in other[1]


def test_a_process_that_fails_is_named(gin_file, tmp_path):
    (tmp_path / "file").touch()
    err = io.StringIO()
    with pytest.raises(ProcessError, match=r"process \d of 2 ended with exit code 2"):
        launch([*command(gin_file, tmp_path, "--optimizer", "SlowMo")], 2, io.StringIO(), err)
    assert "not allowed with argument" in err.getvalue()


EIGHT = """
import sys
import comm_lopt, jax, numpy as np
from comm_lopt.cli.method_specs import method_of_theta
from comm_lopt.meta_test import meta_test_problem
from comm_lopt.train.programs import RoundPrograms
from comm_lopt.train.workers import WorkerDevices
assert jax.device_count() == 8
comm_lopt.load_config([sys.argv[1]])
problem = meta_test_problem()
workers = WorkerDevices(8)
try:
    WorkerDevices(12)
except ValueError as error:
    assert "num_workers=12 cannot be divided among 8 devices (1 processes of 8)" in str(error)
else:
    raise AssertionError("12 workers on 8 devices")
weights = 64 * 8 + 8 + 8 * 10 + 10
rule = comm_lopt.LAggA(num_workers=8)
theta = rule.init(jax.random.PRNGKey(0))
methods = {
    "SlowMo": comm_lopt.hand_designed("SlowMo"),
    "DiLoCo": comm_lopt.hand_designed("DiLoCo"),
    "LOptR": method_of_theta("lopt-r-1"),
    "LAggR": method_of_theta("lagg-r-1"),
    "LAggA": comm_lopt.learned(rule, theta, local_learning_rate=0.1),
}
for name, method in methods.items():
    programs = RoundPrograms(problem, method, workers, 0)
    carry = programs.start()
    batches = problem.rounds().reseeded(0).of_workers(workers.own).round(0)
    examples = problem.task_family.datasets.on_host("train", batches)
    programs.compile(carry, workers.sharded(examples))
    work, merge = programs.collectives
    assert not work, (name, work)
    reduced = sum(c.num_bytes for c in merge if c.kind == "all-reduce")
    exchanged = sum(c.num_bytes for c in merge if c.kind == "all-to-all")
    means = 2 if name == "LAggR" else 1
    assert 4 * means * weights <= reduced <= 4 * means * weights + 1000, (name, merge)
    if name == "LAggA":
        # Each device gets the deltas of its part of the weights, not those of all.
        assert 0 < exchanged <= 4 * weights + 1000, merge
    else:
        large = [c for c in merge if c.num_bytes > 100]
        assert [c.kind for c in large] == ["all-reduce"], (name, merge)
print("one phase")
"""


def test_nobody_talks_in_local_steps_and_a_merge_is_one_all_reduce_of_the_weights(gin_file):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    result = subprocess.run(
        [sys.executable, "-c", EIGHT, str(gin_file)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "one phase" in result.stdout


def test_exchanges_are_read_from_a_programs_text():
    text = """
  %all-reduce = (f32[8,2]{1,0}, bf16[3]{0}) all-reduce(%a, %b), channel_id=1
  ROOT %x = f32[] add(%c, %d)
  %g = pred[4]{0} all-gather-start(%e), dimensions={0}
"""
    assert collectives_in(text) == [Collective("all-reduce", 70), Collective("all-gather", 4)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("localhost:1", None, None), "num_processes, --process_id missing"),
        (("localhost:1", 2, 2), "process_id=2 is none of num_processes=2"),
    ],
)
def test_flags_that_make_no_sense_are_errors(arguments, told):
    with pytest.raises(ValueError, match=told), joined(*arguments):
        pass


def test_nothing_to_launch_is_an_error():
    with pytest.raises(ValueError, match="at least 1 process"):
        launch(["train"], 0)


def test_more_cores_than_there_are_cannot_be_divided():
    with pytest.raises(ValueError, match="take at least 1 for each process, and no more than"):
        launch(["train"], 2, cores_per_process=100_000)
