"""A coverage-guided fuzzer finds no file that makes the reader of theta misbehave."""

import pathlib
import re
import subprocess
import sys

import pytest

RUNS = 20_000


@pytest.mark.reliability
def test_coverage_guided_fuzzing_of_theta(tmp_path, record_figure):
    pytest.importorskip("atheris", reason='needs pip install -e ".[fuzz]"')
    program = pathlib.Path(__file__).with_name("coverage_guided.py")
    # JAX takes most of the memory; a file may take 100 MB more.
    flags = [f"-runs={RUNS}", "-seed=1", "-timeout=5", "-rss_limit_mb=700", "-max_len=20000"]
    result = subprocess.run(
        [sys.executable, str(program), *flags, f"-artifact_prefix={tmp_path}/", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    done = re.search(r"Done (\d+) runs in (\d+) second", result.stderr)
    covered = re.findall(r"cov: (\d+)", result.stderr)
    assert done and int(done.group(1)) >= RUNS
    assert int(covered[-1]) > int(covered[0])
    record_figure("coverage-guided files of theta", done.group(1))
    record_figure("code points covered at first and last", f"{covered[0]}, {covered[-1]}")
    peaks = re.findall(r"rss: (\d+)Mb", result.stderr)
    record_figure("memory at first and last", f"{peaks[0]} MB, {peaks[-1]} MB")
