"""A run on a mixture of data that are streamed and data on the device goes on to the same bits."""

import jax
import numpy as np
import pytest
from small_run import load, rows
from small_tasks import SoftmaxRegression, assert_trees_equal, softmax_batches

import comm_lopt
from comm_lopt import upstream
from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.examples import SPLITS, LabelledExamples
from comm_lopt.data.feeding.streams import StreamDatasets
from comm_lopt.meta_train import loop, meta_train
from comm_lopt.meta_train.log import MetaTrainLog


class _Stop(Exception):
    """A run ends in the middle of its third meta-step."""


class _StopsAtThree(MetaTrainLog):
    def write(self, row, *arguments, **others):
        if row["meta_step"] == 3:
            raise _Stop
        super().write(row, *arguments, **others)


class Regression(SoftmaxRegression):
    """On examples that are gathered in the loss."""

    def __init__(self, kind):
        examples = LabelledExamples({n: softmax_batches((), 40, i) for i, n in enumerate(SPLITS)})
        self.datasets = kind(examples, batch_size=3)

    def loss_and_aux(self, params, key, data):
        return super().loss_and_aux(params, key, self.datasets.gather(data))


def families():
    return [
        comm_lopt.LocalSGDTaskFamily(
            upstream.single_task_to_family(Regression(kind)), num_workers=2, num_local_steps=2
        )
        for kind in (StreamDatasets, DeviceDatasets)
    ]


@pytest.fixture
def inputs(monkeypatch):
    """The random key and the unrolls that each meta-step was given."""
    given = []
    compute = upstream.gradient_worker_compute

    def recorded(weights, estimators, unrolls, key, **options):
        given.append((np.asarray(key).tobytes(), jax.tree.map(np.asarray, unrolls)))
        return compute(weights, estimators, unrolls, key, **options)

    monkeypatch.setattr(upstream, "gradient_worker_compute", recorded)
    return given


def test_resumed_run_on_a_mixture_with_streams_is_one_that_was_never_stopped(
    tmp_path, monkeypatch, inputs
):
    load("meta_train.checkpoint_every = 2", "max_rounds = 50", "min_rounds = 50")
    _, whole = meta_train(tmp_path / "whole", task_families=families(), progress=False)
    keys, unrolls = zip(*inputs, strict=True)
    assert len(set(keys)) == 4
    for before, after in zip(unrolls[:-1], unrolls[1:], strict=True):
        # Inner problems go on, of both families.
        for one, other in zip(before, after, strict=True):
            pairs = zip(*map(jax.tree.leaves, (one, other)), strict=True)
            assert any(not np.array_equal(*pair) for pair in pairs)
    with monkeypatch.context() as patched, pytest.raises(_Stop):
        patched.setattr(loop, "MetaTrainLog", _StopsAtThree)
        meta_train(tmp_path / "stopped", task_families=families(), progress=False)
    _, resumed = meta_train(
        tmp_path / "stopped", task_families=families(), progress=False, resume=True
    )
    assert_trees_equal(resumed, whole)
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")
    # Meta-steps 3 and 4 were given what they would have been given.
    assert [key for key, _ in inputs[-2:]] == list(keys[2:])
