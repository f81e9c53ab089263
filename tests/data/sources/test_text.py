"""Text, read as bytes."""

import numpy as np
import pytest
from small_data import write_prepared

from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.examples import SPLITS
from comm_lopt.data.feeding.streams import StreamDatasets
from comm_lopt.data.sources import text as text_sources
from comm_lopt.data.sources.folder import DataError
from comm_lopt.data.sources.text import (
    lm1b_datasets,
    python_library_datasets,
    python_topics_datasets,
    read_text,
    text_file_datasets,
)

TEXT = ("Ein Satz über Äpfel — 𝄞.\n" * 40).encode()


def written(tmp_path, content=TEXT):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    return str(path)


def text_of(datasets):
    return {name: datasets.array_of(name, "text") for name in SPLITS}


def assert_windows_of(batch, text, length):
    """Every row of `batch` [B, L + 1] stands in the text."""
    assert (batch.shape[1], batch.dtype) == (length + 1, np.uint8)
    content = text.tobytes()
    for row in np.asarray(batch):
        assert row.tobytes() in content


def test_file_is_read_byte_by_byte(tmp_path):
    found = read_text(written(tmp_path))
    assert found.dtype == np.uint8
    assert found.tobytes() == TEXT


@pytest.mark.parametrize(
    ("content", "byte", "position"),
    [
        (b"\xff\xfea\0", "0xff", 0),
        (TEXT + b"caf\xe9 au lait", "0xe9", len(TEXT) + 3),
        (TEXT[:24], "0xe2", 22),
        (b"abc\x80", "0x80", 3),
        (b"\xed\xa0\x80", "0xed", 0),
    ],
    ids=["UTF-16", "Latin-1", "cut in a character", "stray byte", "surrogate"],
)
def test_what_is_not_utf8_is_refused_and_the_place_told(tmp_path, content, byte, position):
    with pytest.raises(DataError, match=f"byte {byte} at position {position}; convert it"):
        text_file_datasets(written(tmp_path, content))


def test_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        text_file_datasets(str(tmp_path / "nowhere.txt"))


def test_splits_of_a_file_are_stretches_one_after_another(tmp_path):
    datasets = text_file_datasets(written(tmp_path), length=8, batch_size=4)
    assert isinstance(datasets, DeviceDatasets)
    texts = text_of(datasets)
    assert b"".join(text.tobytes() for text in texts.values()) == TEXT
    ends = [round(len(TEXT) * percent / 100) for percent in (80, 85, 90, 100)]
    assert [len(text) for text in texts.values()] == list(np.diff([0, *ends]))
    assert datasets.extra_info["num_classes"] == 256
    for name in SPLITS:
        batch = datasets.gather(next(datasets.split(name)))["text"]
        assert_windows_of(batch, texts[name], 8)


@pytest.mark.parametrize("content", [b"", b"a", TEXT[:100]])
def test_text_too_short_for_a_window_is_an_error_that_says_so(tmp_path, content):
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match="bytes and a window has length=64 and one more; pass"):
        text_file_datasets(path)


@pytest.mark.parametrize("argument", ["length", "batch_size"])
def test_length_and_batch_size_of_zero_are_errors(tmp_path, argument):
    with pytest.raises(ValueError, match=f"{argument}=0"):
        text_file_datasets(written(tmp_path), **{"length": 8, argument: 0})


def test_python_topics_are_utf8_text_in_stretches():
    from pydoc_data.topics import topics

    datasets = python_topics_datasets(length=32, batch_size=4)
    assert isinstance(datasets, DeviceDatasets)
    together = np.concatenate(list(text_of(datasets).values()))
    assert together.size > 400_000
    text = together.tobytes().decode("utf-8")
    assert text == "\n".join(text for _, text in sorted(topics.items()))
    batch = datasets.gather(next(datasets.train))["text"]
    assert_windows_of(batch, datasets.array_of("train", "text"), 32)


def test_python_library_is_source_of_which_topics_have_nothing(monkeypatch, tmp_path):
    datasets = python_library_datasets(length=32, batch_size=4)
    together = np.concatenate(list(text_of(datasets).values()))
    assert together.size > 1_000_000
    source = together.tobytes().decode("utf-8")
    assert source.count("\ndef ") > 500
    topics = np.concatenate(list(text_of(python_topics_datasets(length=32)).values()))
    lines = {line for line in topics.tobytes().decode("utf-8").splitlines() if len(line) > 60}
    assert len(lines & {*source.splitlines()}) < 0.001 * len(lines)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    text_sources._python_library.cache_clear()
    with pytest.raises(FileNotFoundError, match=r"argparse\.py.*keeps no source"):
        python_library_datasets()


def test_lm1b_streams_windows_of_the_prepared_text(tmp_path):
    written_texts = write_prepared(tmp_path / "lm1b", "lm1b", 200, 60)
    datasets = lm1b_datasets(length=16, batch_size=4, folder=str(tmp_path / "lm1b"))
    assert isinstance(datasets, StreamDatasets)
    train, test = (written_texts[name]["text"] for name in ("train", "test"))
    parts = {
        "inner_valid": train[:100],
        "outer_valid": train[100:200],
        "train": train[200:],
        "test": test,
    }
    for name, text in parts.items():
        np.testing.assert_array_equal(datasets.array_of(name, "text"), text)
        for _ in range(3):
            assert_windows_of(next(datasets.split(name))["text"], text, 16)


def test_resident_lm1b_gives_the_same_batches(small_data_folder):
    folder = str(small_data_folder / "lm1b")
    streamed = lm1b_datasets(4, 4, seed=3, folder=folder)
    resident = lm1b_datasets(4, 4, seed=3, folder=folder, resident=True)
    assert isinstance(resident, DeviceDatasets)
    for name in SPLITS:
        found = resident.gather(next(resident.split(name)))["text"]
        np.testing.assert_array_equal(found, next(streamed.split(name))["text"])


def test_lm1b_that_has_not_been_prepared_says_how_to(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `comm-lopt data prepare lm1b`"):
        lm1b_datasets(folder=str(tmp_path))
