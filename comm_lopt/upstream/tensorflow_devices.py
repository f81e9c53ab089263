"""Keeps TensorFlow, where it is installed, off the accelerator.

Upstream imports TensorFlow to read data. Left alone it takes all of the accelerator's memory
with its first operation, and JAX then has none.
"""

from __future__ import annotations

import contextlib
import sys

__all__ = ["keep_tensorflow_off_accelerators"]

_ACCELERATORS = ("GPU", "TPU")


def keep_tensorflow_off_accelerators() -> None:
    """Hides accelerators from TensorFlow, if it has been imported; safe to call again.

    A TensorFlow that has begun to work keeps what it has.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None:
        return
    for kind in _ACCELERATORS:
        if tensorflow.config.get_visible_devices(kind):
            with contextlib.suppress(RuntimeError):
                tensorflow.config.set_visible_devices([], kind)
