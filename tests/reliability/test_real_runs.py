"""A process of a real run is killed at random moments: the others end, and nothing is lost."""

import csv
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from small_run import checkpoint_steps

KILLS = 20
NUM_PROCESSES = 2
NUM_ROUNDS = 8000
CHECKPOINT_EVERY = 25
GIN = f"""
include 'tasks/digits_mlp.gin'
digits_mlp.hidden_sizes = (8,)
num_workers = 4
num_local_steps = 2
num_rounds = {NUM_ROUNDS}
train.checkpoint_every = {CHECKPOINT_EVERY}
train.evaluate_every = 1000
"""
PROGRAM = "import sys; from comm_lopt.cli import main; sys.exit(main(sys.argv[1:]))"


def start(gin_file, folder):
    launched = ["launch", "-n", str(NUM_PROCESSES), "--", "train", "--config_file", str(gin_file)]
    method = ["--optimizer", "DiLoCo:local_learning_rate=0.01", "--resume", "--no_progress"]
    command = [sys.executable, "-c", PROGRAM, *launched, *method, "--out_dir", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def rows(folder):
    path = folder / "rounds.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["train_loss"]]


def process_ids(launcher):
    """Of the processes of a run, by their number in it."""
    listed = subprocess.run(
        ["ps", "-ww", "--ppid", str(launcher.pid), "-o", "pid=,args="],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = re.findall(r"^ *(\d+) .*--process_id=(\d+)", listed.stdout, re.MULTILINE)
    return {int(number): int(pid) for pid, number in found}


def newest(folder):
    """Rounds that are saved."""
    return max(checkpoint_steps(folder), default=0)


def wait_for_a_round(folder, kept, begun, launcher):
    """Until a run that goes on from a checkpoint has done a round more."""
    path = folder / "rounds.csv"
    while not (path.exists() and path.stat().st_mtime > begun and len(rows(folder)) > kept):
        assert launcher.poll() is None, launcher.communicate()[1]
        time.sleep(0.05)


@pytest.mark.reliability
def test_twenty_processes_killed_at_random_moments(tmp_path, record_figure):
    gin_file = tmp_path / "task.gin"
    gin_file.write_text(GIN, encoding="utf-8")
    rng = random.Random(2)
    slowest, lost = 0.0, 0
    for kill in range(KILLS):
        kept, begun = newest(tmp_path / "killed"), time.time()
        launcher = start(gin_file, tmp_path / "killed")
        wait_for_a_round(tmp_path / "killed", kept, begun, launcher)
        time.sleep(rng.uniform(0, 2))
        done = len(rows(tmp_path / "killed"))
        number = rng.randrange(NUM_PROCESSES)
        os.kill(process_ids(launcher)[number], signal.SIGKILL)
        begin = time.monotonic()
        told = launcher.communicate(timeout=60)[1]
        slowest = max(slowest, time.monotonic() - begin)
        assert launcher.returncode == 7, told
        assert f"process {number} of {NUM_PROCESSES} was killed by signal 9" in told
        kept = newest(tmp_path / "killed")
        lost = max(lost, done - kept)
        assert kept <= NUM_ROUNDS - CHECKPOINT_EVERY, f"the run was over at kill {kill}"
    for folder in ("killed", "whole"):
        ended = start(gin_file, tmp_path / folder)
        told = ended.communicate(timeout=600)[1]
        assert ended.returncode == 0, told
    killed, whole = (
        [row["train_loss"] for row in rows(tmp_path / folder)] for folder in ("killed", "whole")
    )
    assert len(whole) == NUM_ROUNDS
    # Every digit, of 2 processes as of 2: sums of as many terms have the same bits.
    assert killed == whole
    record_figure("processes of real runs killed", KILLS)
    record_figure("longest time in seconds until the others had ended", round(slowest, 1))
    record_figure("most rounds that were lost at a kill", lost)
    assert slowest < 30
    # A save may be under way when the process is killed.
    assert lost <= 2 * CHECKPOINT_EVERY + 60
