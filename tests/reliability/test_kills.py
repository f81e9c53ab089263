"""SIGKILL at random moments, also during saves: the resumed run ends with the same bits."""

import os
import random
import signal
import time

import pytest
from small_run import checkpoint_steps, finish, rows, start, temporary_files, theta_bytes

QUICK_STEPS, LONG_STEPS = 12, 2000
LONG_KILLS = 24


def changes(folder):
    """Something that changes whenever the run writes."""
    metrics = folder / "metrics.csv"
    return metrics.stat().st_mtime_ns if metrics.exists() else None


def kill(folder, process, delay, while_training):
    """Kills a process after a delay, counted from its first meta-step or from its start.

    Returns:
      whether it was still running, and whether a save was cut.
    """
    if while_training:
        # The file is rewritten once at the start, and then at every checkpoint.
        seen = {changes(folder)}
        while len(seen) < 3 and process.poll() is None:
            time.sleep(0.002)
            seen.add(changes(folder))
    time.sleep(delay)
    if process.poll() is not None:
        return False, False
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return True, bool(list(folder.glob("checkpoints/*orbax-checkpoint-tmp*")))


def assert_same_as_whole(folder, whole):
    assert theta_bytes(folder) == theta_bytes(whole)
    assert rows(folder) == rows(whole)
    assert temporary_files(folder) == set()
    assert len(checkpoint_steps(folder)) <= 4


def killed_run(tmp_path, num_meta_steps, num_kills, longest_delay, rng):
    """A run that is killed again and again; returns the kills and those that cut a save."""
    steps = f"num_meta_steps = {num_meta_steps}"
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    status, printed = finish(start(whole, steps))
    assert status == 0, printed
    kills = cut_saves = 0
    while kills < num_kills:
        process = start(folder, steps, resume=True)
        while_training = rng.random() < 0.8
        delay = rng.uniform(0, longest_delay if while_training else 8 * longest_delay)
        killed, cut = kill(folder, process, delay, while_training)
        printed = process.communicate()[1]
        assert killed, (process.returncode, printed)
        kills += 1
        cut_saves += cut
    status, printed = finish(start(folder, steps, resume=True))
    assert status == 0, printed
    assert "damaged" not in printed
    assert_same_as_whole(folder, whole)
    return kills, cut_saves


def test_killed_runs_end_with_the_same_bits(tmp_path):
    kills, _ = killed_run(tmp_path, QUICK_STEPS, 1, 0.3, random.Random(0))
    assert kills == 1


@pytest.mark.reliability
def test_twenty_kills_at_random_moments(tmp_path, record_figure):
    kills, cut_saves = killed_run(tmp_path, LONG_STEPS, LONG_KILLS, 0.4, random.Random(1))
    record_figure("kills survived", kills)
    record_figure("of which cut a save", cut_saves)
    assert kills >= 20
    assert cut_saves > 0
