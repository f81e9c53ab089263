"""Tests of keeping TensorFlow off the accelerator, with a pretended TensorFlow."""

import sys
import types

import pytest

from comm_lopt.upstream import keep_tensorflow_off_accelerators


class _Config:
    """`tensorflow.config` of a machine with one device of each kind; writes down settings."""

    def __init__(self, *kinds):
        self.visible = {kind: [f"{kind}:0"] for kind in ("CPU", *kinds)}
        self.settings = []

    def get_visible_devices(self, kind):
        return self.visible.get(kind, [])

    def set_visible_devices(self, devices, kind):
        self.settings.append((devices, kind))
        self.visible[kind] = devices


@pytest.fixture
def pretended(monkeypatch):
    """Pretends that TensorFlow has been imported on a machine with some accelerators."""

    def pretend(*kinds):
        config = _Config(*kinds)
        module = types.SimpleNamespace(config=config)
        monkeypatch.setitem(sys.modules, "tensorflow", module)
        return config

    return pretend


@pytest.mark.parametrize("kinds", [("GPU",), ("TPU",), ("GPU", "TPU")])
def test_every_accelerator_is_hidden_and_the_cpu_is_not(pretended, kinds):
    config = pretended(*kinds)
    keep_tensorflow_off_accelerators()
    assert config.settings == [([], kind) for kind in kinds]
    assert config.visible == {"CPU": ["CPU:0"], **{kind: [] for kind in kinds}}


def test_second_call_sets_nothing(pretended):
    # TensorFlow refuses to change what is visible once it has begun to work.
    config = pretended("GPU")
    keep_tensorflow_off_accelerators()
    keep_tensorflow_off_accelerators()
    assert len(config.settings) == 1


def test_tensorflow_that_has_begun_to_work_is_no_error(pretended, monkeypatch):
    def refuse(devices, kind):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    config = pretended("GPU")
    monkeypatch.setattr(config, "set_visible_devices", refuse)
    keep_tensorflow_off_accelerators()
    assert config.visible["GPU"] == ["GPU:0"]


def test_machine_without_accelerators_is_left_as_it_is(pretended):
    config = pretended()
    keep_tensorflow_off_accelerators()
    assert config.settings == []


@pytest.mark.parametrize("absent", [None, "never imported"])
def test_nothing_is_imported_where_tensorflow_is_not(monkeypatch, absent):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    if absent is None:  # Python's own way to block a module.
        monkeypatch.setitem(sys.modules, "tensorflow", None)
    keep_tensorflow_off_accelerators()
    assert sys.modules.get("tensorflow") is None
