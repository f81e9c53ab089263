"""Prepared data sets, and how they are divided."""

import re

import numpy as np
import pytest
from small_data import write_prepared

from comm_lopt.data.feeding.examples import SPLITS
from comm_lopt.data.sources.folder import DATA_VARIABLE, DataError, data_folder
from comm_lopt.data.sources.prepared import writing_prepared
from comm_lopt.data.sources.prepared_source import load_images, load_texts, prepared_folder
from comm_lopt.data.sources.registry import PREPARED

IMAGES = [name for name, source in PREPARED.items() if source.image_shape]
every_image_set = pytest.mark.parametrize("name", IMAGES)


@pytest.mark.parametrize("name", PREPARED)
def test_entry_divides_all_of_train_and_nothing_twice(name):
    source = PREPARED[name]
    assert source.name == name
    assert set(source.percents) == set(SPLITS) - {"test"}
    ends = sorted(source.percents.values())
    assert ends[0][0] == 0
    assert ends[-1][1] == 100
    assert [stop for _, stop in ends[:-1]] == [start for start, _ in ends[1:]]
    assert re.fullmatch(r"[a-z0-9_]+(/[a-z0-9]+)?:\d+\.\d+\.\d+", source.tfds_name)
    assert (source.num_classes > 0) == (source.image_shape is not None)


@every_image_set
def test_images_are_divided_in_order_and_mapped(tmp_path, name):
    source = PREPARED[name]
    written = write_prepared(tmp_path / name, name, num_train=50, num_test=7)
    splits = load_images(source, tmp_path / name)
    assert set(splits) == set(SPLITS)
    for split, (start, stop) in source.percents.items():
        part = slice(round(start / 2), round(stop / 2))
        np.testing.assert_array_equal(splits[split].images, written["train"]["image"][part])
        np.testing.assert_array_equal(splits[split].labels, written["train"]["label"][part])
    test = written[source.test_split]
    np.testing.assert_array_equal(splits["test"].images, test["image"])
    np.testing.assert_array_equal(splits["test"].labels, test["label"])
    assert isinstance(splits["train"].images, np.memmap)


def test_text_is_divided_in_order_and_mapped(tmp_path):
    written = write_prepared(tmp_path / "lm1b", "lm1b", num_train=30, num_test=4)
    texts = load_texts(PREPARED["lm1b"], tmp_path / "lm1b")
    train = written["train"]["text"]
    assert len(train) == 1500
    np.testing.assert_array_equal(texts["inner_valid"], train[:15])
    np.testing.assert_array_equal(texts["outer_valid"], train[15:30])
    np.testing.assert_array_equal(texts["train"], train[30:])
    np.testing.assert_array_equal(texts["test"], written["test"]["text"])
    assert isinstance(texts["train"], np.memmap)


def test_data_lies_in_the_folder_of_the_environment_by_name(small_data_folder, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(small_data_folder))
    assert data_folder() == small_data_folder
    assert prepared_folder(PREPARED["cifar10"]) == small_data_folder / "cifar10"
    assert load_images(PREPARED["cifar10"])["test"].images.shape[1:] == (32, 32, 3)


def test_without_the_variable_data_lies_in_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert data_folder() == tmp_path / ".local" / "share" / "comm_lopt"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    assert data_folder() == tmp_path / "elsewhere" / "comm_lopt"
    monkeypatch.setenv(DATA_VARIABLE, "~/data")
    assert data_folder() == tmp_path / "data"


@pytest.mark.parametrize("name", PREPARED)
def test_data_that_has_not_been_prepared_says_how_to_get_it(tmp_path, monkeypatch, name):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    told = (
        rf"{name} is not in {tmp_path}/{name}; install comm-lopt\[tfds\] and run `comm-lopt data "
        f"prepare {name}`, or set COMM_LOPT_DATA"
    )
    with pytest.raises(FileNotFoundError, match=told):
        prepared_folder(PREPARED[name])


@pytest.mark.parametrize(
    ("name", "other", "told"),
    [
        ("cifar10", "cifar100", r"has the label \d\d; labels lie in 0 to 9"),
        ("imagenet64", "imagenet32", r"images of \[32, 32, 3\] and here they are \[64, 64, 3\]"),
        ("cifar100", "imagenet32", "lacks 'image' of 'test'"),
        ("cifar10", "lm1b", "lacks 'image' of 'train'"),
    ],
)
def test_folder_of_another_data_set_is_refused(small_data_folder, name, other, told):
    with pytest.raises(DataError, match=f"{small_data_folder / other}.* {told}"):
        load_images(PREPARED[name], small_data_folder / other)


def test_images_are_no_text(small_data_folder):
    with pytest.raises(DataError, match="cifar10 lacks 'text' of 'train'"):
        load_texts(PREPARED["lm1b"], small_data_folder / "cifar10")


@pytest.mark.parametrize("text", [np.zeros(500, np.int32), np.zeros((500, 2), np.uint8)])
def test_text_of_another_type_is_refused(tmp_path, text):
    with writing_prepared(tmp_path / "lm1b") as writer:
        for split in ("train", "test"):
            writer.write(split, iter([{"text": text}]))
        writer.finish({})
    with pytest.raises(DataError, match=r"lm1b \(train\) has a text of .*; a text is uint8 \[N\]"):
        load_texts(PREPARED["lm1b"], tmp_path / "lm1b")


def test_splits_that_are_not_needed_may_hold_anything(tmp_path):
    images = {"image": np.zeros((10, 32, 32, 3), np.uint8), "label": np.zeros(10, np.int32)}
    with writing_prepared(tmp_path / "cifar10") as writer:
        for split, arrays in (("train", images), ("test", images), ("extra", {"x": np.ones(3)})):
            writer.write(split, iter([arrays]))
        writer.finish({})
    assert set(load_images(PREPARED["cifar10"], tmp_path / "cifar10")) == set(SPLITS)
