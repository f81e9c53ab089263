"""A small meta-training run, in this process or in one of its own that can be killed."""

import csv
import subprocess
import sys

import comm_lopt
from comm_lopt.meta_train import meta_train

FILES = ["tasks/digits_mlp.gin", "optimizers/lopt_a.gin", "meta_training.gin"]
SMALL = [
    "num_tasks = 2",
    "truncation_length = 2",
    "num_workers = 2",
    "num_local_steps = 2",
    "min_rounds = 2",
    "max_rounds = 5",
    "num_meta_steps = 4",
    "ThetaAdamW.warmup_steps = 1",
    "digits_datasets.batch_size = 4",
    "LOptA.hidden_size = 4",
    "stack_antithetic_samples = True",  # One program to compile, not two.
    "meta_train.checkpoint_every = 1",
]


def load(*bindings):
    """Has gin describe the small run, changed by the bindings."""
    comm_lopt.load_config(FILES, [*SMALL, *bindings])


def run(folder, *bindings, **arguments):
    """Runs it here; returns theta."""
    load(*bindings)
    return meta_train(folder, progress=False, **arguments)[1]


def start(
    folder, *bindings, resume=False, program=None, stderr=subprocess.PIPE, launched=(), **more
):
    """Starts it in a process of its own, or in those of a launcher."""
    flags = ["meta-train", "--no_progress", "--train_log_dir", str(folder)]
    for file in FILES:
        flags += ["--config_file", file]
    for binding in [*SMALL, *bindings]:
        flags += ["--gin_bindings", binding]
    module = launched or (["-m", "comm_lopt"] if program is None else ["-c", program])
    return subprocess.Popen(
        [sys.executable, *module, *flags, *["--resume"] * resume],
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        **more,
    )


def finish(process):
    """Waits for a started process; returns its exit status and what it printed to stderr."""
    _, printed = process.communicate(timeout=300)
    return process.returncode, printed


def theta_bytes(folder, name="theta"):
    """The whole file of theta."""
    return (folder / name / "theta.safetensors").read_bytes()


def rows(folder, name="metrics.csv"):
    """The rows of a log, without the seconds."""
    with (folder / name).open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def checkpoint_steps(folder):
    """Meta-steps of the checkpoints that have their name."""
    names = [path.name for path in (folder / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())


def temporary_files(folder):
    """What an interrupted process left behind, by name."""
    kept = {".lock"}
    hidden = {path.name for path in folder.rglob(".*")} - kept
    return hidden | {path.name for path in folder.rglob("*orbax-checkpoint-tmp*")}
