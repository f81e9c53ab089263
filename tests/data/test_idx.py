"""IDX files: what is written comes back, and damage is told."""

import gzip
import struct

import numpy as np
import pytest

from comm_lopt.data.idx import DataError, read_idx


def idx_bytes(array):
    """The IDX file of an array of unsigned bytes."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize("name", ["file", "file.gz"])
@pytest.mark.parametrize("array", [ARRAY, np.arange(5), np.zeros((0, 28, 28))])
def test_array_comes_back(tmp_path, name, array):
    content = idx_bytes(array)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    found = read_idx(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)


WHOLE = idx_bytes(ARRAY)
DAMAGED = {
    "empty": (b"", "begins with nothing"),
    "not IDX": (b"\x89PNG" + WHOLE, "begins with 89504e47"),
    "rank 0": (b"\0\0\x08\0", "begins with 00000800"),
    "floats": (b"\0\0\x0d" + WHOLE[3:], "type 0x0d"),
    "cut in the header": (WHOLE[:9], "ends inside its header"),
    "one value missing": (WHOLE[:-1], "24 values, and holds 23"),
    "one value too many": (WHOLE + b"x", "24 values, and holds 25"),
    "absurd shape": (struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**32 - 1] * 3), "and holds 0"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_file_is_refused(tmp_path, case):
    content, told = DAMAGED[case]
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told):
        read_idx(path)


@pytest.mark.parametrize(
    "content", [b"no gzip", gzip.compress(WHOLE)[:-9], gzip.compress(WHOLE)[:12] + b"\xff" * 40]
)
def test_damaged_gzip_is_refused(tmp_path, content):
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be unpacked"):
        read_idx(path)


def test_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "nowhere")
