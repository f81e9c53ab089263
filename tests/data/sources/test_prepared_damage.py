"""Prepared data that is damaged or hostile: told with file and remedy, or read as it was."""

import json

import numpy as np
import pytest
from small_data import damaged
from small_prepared import TEST, TRAIN, damage_header, damage_values, remove_file, write

from comm_lopt.data.sources.folder import DataError
from comm_lopt.data.sources.prepared import read_prepared


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data" / "made_up"


def lengthen(folder):
    path = folder / "train.image.npy"
    path.write_bytes(path.read_bytes() + b"x")


def shift_values(folder):
    path = folder / "train.image.npy"
    content = bytearray(path.read_bytes())
    content[8] -= 16
    path.write_bytes(content)


def with_header(change):
    def damage(folder):
        path = folder / "dataset.json"
        header = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(change(header)), encoding="utf-8")

    return damage


def with_label(**changed):
    def change(header):
        header["splits"]["train"]["label"] |= changed
        return header

    return with_header(change)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (damage_values, r"train\.image\.npy has 226 bytes and should have 227"),
        (lengthen, r"train\.image\.npy has 228 bytes and should have 227"),
        (shift_values, r"train\.image\.npy has 227 bytes and should have 211"),
        (damage_header, r"dataset\.json is damaged"),
        (remove_file, r"test\.label\.npy cannot be read"),
        (with_header(lambda header: []), r"dataset\.json is damaged"),
        (with_header(lambda header: {**header, "splits": None}), r"dataset\.json is damaged"),
        (
            with_header(lambda h: {**h, "splits": {"../x": h["splits"]["test"]}}),
            r"dataset\.json is damaged .*'../x' is no name of a split",
        ),
        (
            with_header(lambda h: {**h, "info": {"x": "y" * 2**20}}),
            r"dataset\.json .* more than 1048576",
        ),
        (
            lambda f: (f / "dataset.json").write_text("[" * 10**5, encoding="utf-8"),
            r"dataset\.json is damaged .*Recursion",
        ),
        (with_header(lambda header: {**header, "format": "x"}), r"dataset\.json is of format 'x'"),
        (with_header(lambda header: {**header, "version": 2}), r"dataset\.json .* version 2; this"),
        (with_label(shape=[10]), r"train\.label\.npy has int32 \[11\] and should .* int32 \[10\]"),
        (with_label(shape="x"), r"dataset\.json is damaged"),
        (with_label(dtype="int64"), r"train\.label\.npy has int32 .* should have int64"),
        (
            lambda f: np.save(f / "train.label.npy", np.zeros(12, np.int32)),
            r"train\.label\.npy has",
        ),
        (lambda f: (f / "test.image.npy").write_bytes(b""), r"test\.image\.npy cannot be read"),
    ],
)
def test_damage_is_told_with_the_file_and_the_remedy(folder, damage, told):
    write(folder)
    damage(folder)
    with pytest.raises(DataError, match=f"{folder}/{told}.*prepare the data anew"):
        read_prepared(folder)


def test_array_of_no_size_is_refused(folder):
    """NumPy divides by its size when it maps it, which ends the process."""
    write(folder)
    with (folder / "train.label.npy").open("wb") as file:
        header = {"descr": "|V0", "fortran_order": False, "shape": (11,)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(DataError, match=r"train\.label\.npy cannot be read .*have no size"):
        read_prepared(folder)


def test_pickled_array_is_refused_and_not_run(folder):
    write(folder)
    np.save(folder / "train.label.npy", np.asarray([{}] * 11, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"train\.label\.npy cannot be read"):
        read_prepared(folder)


@pytest.mark.parametrize("name", ["train.image.npy", "dataset.json"])
def test_file_damaged_anywhere_is_refused_or_gives_the_same(folder, name):
    write(folder)
    path = folder / name
    whole = path.read_bytes()
    values_from = len(whole) - TRAIN["image"].nbytes if name.endswith(".npy") else len(whole)
    refused = 0
    # Values have no checksum; everything before them has to be right.
    cut = [whole[:stop] for stop in np.linspace(values_from, len(whole), 40, False).astype(int)]
    changed = [content + whole[values_from:] for content in damaged(whole[:values_from], 40, 400)]
    for content in cut + changed:
        path.write_bytes(content)
        try:
            arrays, _ = read_prepared(folder)
        except DataError:
            refused += 1
            continue
        for split, expected in (("train", TRAIN), ("test", TEST)):
            for key, array in expected.items():
                np.testing.assert_array_equal(arrays[split][key], array)
    assert refused >= 100
