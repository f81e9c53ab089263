"""Fuzzes the reader of theta, guided by coverage; a program, run by test_coverage_guided.py.

Half of the inputs stand for a whole file, half for the JSON header inside a sound one.
"""

import contextlib
import json
import pathlib
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["comm_lopt.theta", "json"]):
    import comm_lopt
    import comm_lopt.theta

import jax
from safetensors.numpy import load, save

FOLDER = pathlib.Path(tempfile.mkdtemp())
FILE = FOLDER / "theta.safetensors"
LEARNED_OPT = comm_lopt.LOptA(hidden_size=3)
WHOLE = comm_lopt.save_theta(
    FOLDER, LEARNED_OPT, LEARNED_OPT.init(jax.random.PRNGKey(0)), {"task": "t"}
).read_bytes()
ARRAYS = load(WHOLE)


def read(data):
    """Reads what the fuzzer made; ThetaError is the only error it may end in."""
    if data[:1] == b"w":
        content = data[1:]
    else:
        text = data[1:].decode("utf-8", errors="replace")
        content = save(ARRAYS, metadata={"comm_lopt": text})
    FILE.write_bytes(content)
    with contextlib.suppress(comm_lopt.ThetaError):
        comm_lopt.load_theta(FILE)


def write_seeds(folder):
    """Sound inputs of both kinds to begin with."""
    size = int.from_bytes(WHOLE[:8], "little")
    header = json.loads(WHOLE[8 : 8 + size])["__metadata__"]["comm_lopt"]
    (folder / "whole").write_bytes(b"w" + WHOLE)
    (folder / "header").write_bytes(b"h" + header.encode())


if __name__ == "__main__":
    write_seeds(pathlib.Path(sys.argv[-1]))
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
