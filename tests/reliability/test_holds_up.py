"""2,000 meta-steps: memory and open files do not grow, and nothing is compiled again."""

import collections
import logging
import os
import pathlib
import re

import jax
import pytest
from small_run import load, temporary_files

from comm_lopt.meta_train import meta_train
from comm_lopt.meta_train.log import MetaTrainLog

STEPS, VALIDATION_EVERY, SETTLED = 2000, 200, 300
MOST_GROWTH = 0.02
# What a meta-step is made of; JAX's own small functions are compiled for several shapes.
PROGRAMS = ("jit(truncated_unroll)", "jit(compute_pes_grad)", "jit(update)", "jit(_finite)")


def memory_mb():
    """What the process has allocated; pages of files, such as libraries, come and go."""
    text = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.findall(r"(?:RssAnon|VmSwap):\s+(\d+) kB", text)
    return sum(map(int, found)) / 1024


def open_files():
    return len(os.listdir("/proc/self/fd"))


class Compilations(logging.Handler):
    """Counts what JAX compiles, by function."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def emit(self, record):
        message = record.getMessage()
        if message.startswith("Compiling "):
            self.counts[message.split()[1]] += 1


@pytest.mark.reliability
def test_two_thousand_meta_steps(tmp_path, monkeypatch, record_figure):
    memory, files, compiled = {}, {}, {}
    compilations = Compilations()
    write = MetaTrainLog.write

    def measured(self, row, not_finite=()):
        write(self, row, not_finite)
        step = row["meta_step"]
        if step % 100 == 0:
            memory[step], files[step] = memory_mb(), open_files()
        compiled[step] = sum(compilations.counts.values())

    monkeypatch.setattr(MetaTrainLog, "write", measured)
    logger = logging.getLogger("jax")
    logger.addHandler(compilations)
    # Pytest would keep every line in memory, which is what is measured.
    monkeypatch.setattr(logger, "propagate", False)
    try:
        with jax.log_compiles():
            load(
                f"num_meta_steps = {STEPS}",
                "meta_train.checkpoint_every = 50",
                f"meta_train.validation_every = {VALIDATION_EVERY}",
            )
            meta_train(tmp_path, progress=False)
    finally:
        logger.removeHandler(compilations)

    settled = memory[SETTLED]
    growth = max(value for step, value in memory.items() if step > SETTLED) / settled - 1
    record_figure("meta-steps", STEPS)
    record_figure(f"memory after meta-step {SETTLED}", f"{settled:.0f} MB")
    record_figure("largest growth of it afterwards", f"{100 * growth:.2f} %")
    record_figure(f"open files after meta-step {SETTLED}", files[SETTLED])
    record_figure(f"open files after meta-step {STEPS}", files[STEPS])
    record_figure("programs compiled", sum(compilations.counts.values()))
    record_figure(f"of which after meta-step {SETTLED}", compiled[STEPS] - compiled[SETTLED])
    assert growth <= MOST_GROWTH
    assert max(files.values()) <= files[SETTLED]
    assert {name: compilations.counts[name] for name in PROGRAMS} == dict.fromkeys(PROGRAMS, 1)
    assert compiled[STEPS] == compiled[SETTLED]
    assert temporary_files(tmp_path) == set()
