"""TensorFlow beside JAX: it is upstream's, and it keeps off the accelerator."""

import subprocess
import sys
import textwrap

import tensorflow as tf
from learned_optimization.tasks.datasets import base


def test_upstream_is_given_the_installed_tensorflow():
    assert base.tf is tf


def test_importing_comm_lopt_hides_accelerators_before_tensorflow_can_take_their_memory():
    # In a process of its own, where nothing but comm_lopt can have done it.
    source = """
        import comm_lopt, sys
        tf = sys.modules["tensorflow"]
        print([tf.config.get_visible_devices(kind) for kind in ("GPU", "TPU")])
        print(int(tf.constant(1) + 1))
        print([tf.config.get_visible_devices(kind) for kind in ("GPU", "TPU")])
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["[[], []]", "2", "[[], []]"]
