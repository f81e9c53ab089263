"""Runs that are taken apart before their first meta-step, so that nothing is compiled."""

import gin
import jax.numpy as jnp
import pytest
import small_run

from comm_lopt.meta_train import loop, meta_train
from comm_lopt.meta_train.not_finite import WatchedEstimator


class _Begun(Exception):
    """A run is about to take its first meta-step."""


@pytest.fixture
def begun(monkeypatch, ordinary_promotion):
    """Calls a function with the parts of a run that begins, in place of the run."""

    def begin(folder, function, *bindings, progress=False, **arguments):
        found = []

        def run(parts, _, *keys):
            found.append(function(parts))
            begin.keys = keys
            raise _Begun

        small_run.load(*bindings)
        with monkeypatch.context() as patched, pytest.raises(_Begun):
            patched.setattr(loop, "Run", run)
            meta_train(folder, progress=progress, **arguments)
        return found[0]

    yield begin
    gin.clear_config()


@pytest.fixture
def started(monkeypatch, ordinary_promotion):
    """Starts or resumes a run, which has no inner problems and ends before its first meta-step."""

    def start(folder, *bindings, **arguments):
        def stop(*_):
            raise _Begun

        small_run.load(*bindings)
        with monkeypatch.context() as patched, pytest.raises(_Begun):
            patched.setattr(loop.Run, "go_on", stop)
            patched.setattr(
                WatchedEstimator, "init_worker_state", lambda *_: jnp.zeros(1), raising=False
            )
            meta_train(folder, progress=False, **arguments)

    yield start
    gin.clear_config()
