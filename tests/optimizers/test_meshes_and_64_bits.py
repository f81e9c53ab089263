"""Every rule of the registry on meshes and with 64 bits, in one process of its own each."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest
from programs import in_64_bits, on_four_devices

PROGRAMS = pathlib.Path(__file__).parent / "programs"
TESTS = pathlib.Path(__file__).parents[1]


def errors_of(program, *arguments, **environment):
    """What a program's checks say, by name; an empty text where all is right."""
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, PROGRAMS / program, *arguments],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "JAX_PLATFORMS": "cpu",
            # For speed: there are a hundred programs to compile.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def on_a_mesh():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    return errors_of("on_four_devices.py", XLA_FLAGS=flags)


@pytest.fixture(scope="module")
def with_64_bits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("with_32_bits")
    # Optax's Adam fails under strict promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        in_64_bits.write(folder)
    return errors_of("in_64_bits.py", str(folder), JAX_ENABLE_X64="1")


@pytest.mark.parametrize("check", on_four_devices.CHECKS)
def test_works_on_four_devices(check, on_a_mesh):
    assert on_a_mesh[check] == ""


@pytest.mark.parametrize("check", in_64_bits.checks(None))
def test_works_with_64_bits(check, with_64_bits):
    assert with_64_bits[check] == ""
