"""A process of a meta-training run of two is killed: the other ends, and nothing is lost."""

import os
import random
import signal
import time

import pytest
import small_run
from test_real_runs import process_ids

KILLS = 6
STEPS = 150
LAUNCHED = ["-m", "comm_lopt", "launch", "-n", "2", "--"]


def start(folder):
    return small_run.start(folder, f"num_meta_steps = {STEPS}", resume=True, launched=LAUNCHED)


@pytest.mark.reliability
def test_runs_of_two_processes_killed_at_random_moments(tmp_path, record_figure):
    rng = random.Random(3)
    slowest = 0.0
    for _ in range(KILLS):
        folder = tmp_path / "killed"
        launcher, before = start(folder), max(small_run.checkpoint_steps(folder), default=0)
        while max(small_run.checkpoint_steps(folder), default=0) == before:
            assert launcher.poll() is None, launcher.communicate()[1]
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        number = rng.randrange(2)
        os.kill(process_ids(launcher)[number], signal.SIGKILL)
        begin = time.monotonic()
        status, told = small_run.finish(launcher)
        slowest = max(slowest, time.monotonic() - begin)
        assert status == 7, told
        assert f"process {number} of 2 was killed by signal 9" in told
    for name in ("killed", "whole"):
        status, told = small_run.finish(start(tmp_path / name))
        assert status == 0, told
    assert small_run.rows(tmp_path / "killed") == small_run.rows(tmp_path / "whole")
    assert small_run.theta_bytes(tmp_path / "killed") == small_run.theta_bytes(tmp_path / "whole")
    assert small_run.temporary_files(tmp_path / "killed") == set()
    record_figure("processes of meta-training runs of two killed", KILLS)
    record_figure("longest time in seconds until the other had ended", round(slowest, 1))
    assert slowest < 30
