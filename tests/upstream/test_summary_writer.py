"""Tests of the writer of upstream's summaries that needs no TensorFlow."""

import pathlib
import struct
import sys

import numpy as np
import pytest
from learned_optimization import summary

from comm_lopt.upstream import summary_writer
from comm_lopt.upstream.optional_modules import StandIn
from comm_lopt.upstream.summary_writer import EventFileWriter, replace_unusable_writer


def read_values(log_dir: pathlib.Path) -> dict[str, list]:
    """Reads event files: tag to [(step, value)]."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    values: dict[str, list] = {}
    for path in sorted(log_dir.glob("events.out.tfevents.*")):
        data, position = path.read_bytes(), 0
        while position < len(data):
            (length,) = struct.unpack_from("<Q", data, position)
            start = position + 12  # The length and its checksum.
            event = event_pb2.Event.FromString(data[start : start + length])
            position = start + length + 4  # The checksum of the event.
            for value in event.summary.value:
                values.setdefault(value.tag, []).append((event.step, value))
    return values


def test_what_upstreams_trainer_writes_can_be_read_back(tmp_path):
    writer = EventFileWriter(tmp_path / "not" / "there" / "yet")
    writer.scalar("loss", np.float32(2.5), step=np.asarray(7))
    writer.histogram("values", np.asarray([[1.0, np.nan], [3.0, np.inf]]), step=8)
    writer.histogram("no values", np.asarray([]), step=8)
    writer.text("structure", "a text", step=0)
    writer.flush()
    writer.close()
    values = read_values(tmp_path / "not" / "there" / "yet")
    ((step, loss),) = values["loss"]
    assert (step, loss.simple_value) == (7, 2.5)
    ((step, histogram),) = values["values"]
    assert (step, histogram.histo.num, histogram.histo.max) == (8, 2, 3)
    assert "no values" not in values
    assert any("structure" in tag for tag in values)


@pytest.mark.parametrize("unusable", ["tf", "JaxboardWriter"])
def test_writer_is_replaced_where_upstreams_own_cannot_work(monkeypatch, unusable):
    monkeypatch.setattr(summary, "tf", object())
    monkeypatch.setattr(summary, "JaxboardWriter", object)
    monkeypatch.setattr(summary, "TensorboardWriter", object)
    monkeypatch.setattr(summary, unusable, StandIn(unusable, "tensorflow"))
    assert replace_unusable_writer()
    assert summary.JaxboardWriter is summary.TensorboardWriter is EventFileWriter


def test_writer_of_upstream_is_kept_where_tensorflow_is_installed(monkeypatch):
    class Own:
        pass

    monkeypatch.setattr(summary, "tf", object())
    monkeypatch.setattr(summary, "JaxboardWriter", Own)
    assert not replace_unusable_writer()
    assert summary.JaxboardWriter is Own


def test_missing_tensorboardx_is_reported_with_the_fix(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match="pip install tensorboardX"):
        summary_writer.EventFileWriter(tmp_path)
