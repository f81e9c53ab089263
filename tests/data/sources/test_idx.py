"""IDX files: what is written comes back, and damage is told."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from small_data import damaged
from small_tasks import write_fashion_mnist

from comm_lopt.data.sources.folder import DataError
from comm_lopt.data.sources.idx import find_idx_files, read_idx, read_idx_images


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
    "one value too many": (WHOLE + b"x", "24 values, and holds more"),
    "absurd shape": (struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**32 - 1] * 3), "and holds 0"),
    "absurd shape of nothing": (
        struct.pack(">BBBB3I", 0, 0, 8, 3, 0, *[2**32 - 1] * 2), "cannot be read as IDX",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_file_is_refused(tmp_path, case):
    content, told = DAMAGED[case]
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told):
        read_idx(path)


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(WHOLE)[:-9], gzip.compress(WHOLE)[:12] + b"\xff" * 40],
    ids=["no gzip", "truncated", "garbled"],
)
def test_damaged_gzip_is_refused(tmp_path, content):
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    # What comes before the damage may be looked at first.
    with pytest.raises(DataError, match="cannot be read as IDX|begins with"):
        read_idx(path)


@pytest.mark.parametrize("name", ["file", "file.gz"])
def test_file_damaged_anywhere_is_refused_or_gives_an_array_of_its_shape(tmp_path, name):
    path = tmp_path / name
    packed = name.endswith(".gz")
    refused = 0
    for content in damaged(gzip.compress(WHOLE, mtime=0) if packed else WHOLE):
        path.write_bytes(content)
        try:
            found = read_idx(path)
        except DataError:
            refused += 1
            continue
        assert (found.shape, found.dtype) == (ARRAY.shape, np.uint8)
        # Only gzip has a checksum: in a plain file a changed value cannot be told.
        assert not packed or np.array_equal(found, ARRAY)
    assert refused >= 40


@pytest.mark.parametrize("name", ["file", "file.gz"])
def test_file_that_holds_far_more_than_it_says_is_not_read_to_its_end(tmp_path, name):
    path = tmp_path / name
    content = WHOLE + bytes(10_000_000)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="24 values, and holds more"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_small_file_that_unpacks_to_a_lot_is_refused_before_it_does(tmp_path):
    path = tmp_path / "file.gz"
    content = struct.pack(">BBBB1I", 0, 0, 8, 1, 80_000_000) + bytes(80_000_000)
    path.write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match="unpacks to 80000000 bytes, more than 67108864"):
        read_idx(path)


def test_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "nowhere")


@pytest.mark.parametrize("packed", [[], ["train-images-idx3-ubyte"], None])
def test_four_files_are_found_packed_or_not(tmp_path, packed):
    write_fashion_mnist(tmp_path, 8, 5)
    for path in list(tmp_path.iterdir()):
        if packed is None or path.name in packed:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    files = find_idx_files(tmp_path)
    assert set(files) == {"train", "test"}
    assert {path for pair in files.values() for path in pair} == set(tmp_path.iterdir())
    for split, size in (("train", 8), ("test", 5)):
        images, labels = map(read_idx, files[split])
        assert (images.shape, labels.shape) == ((size, 28, 28), (size,))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["images", "labels", "-"])
def test_kaggles_names_are_found_beside_the_usual_ones(tmp_path, kind, packed):
    write_fashion_mnist(tmp_path, 8, 5)
    for path in list(tmp_path.iterdir()):
        if kind in path.name:
            named = path.rename(path.with_name(path.name.replace("-idx", ".idx")))
            if packed:
                named.with_name(f"{named.name}.gz").write_bytes(gzip.compress(named.read_bytes()))
                named.unlink()
                # Kaggle's archive has folders of the usual names.
                path.mkdir()
    files = find_idx_files(tmp_path)
    assert {split: [len(read_idx(path)) for path in pair] for split, pair in files.items()} == {
        "train": [8, 8],
        "test": [5, 5],
    }


def test_three_files_are_none(tmp_path):
    write_fashion_mnist(tmp_path, 8, 5)
    for path in list(tmp_path.iterdir()):
        content = path.read_bytes()
        path.unlink()
        assert find_idx_files(tmp_path) is None
        path.write_bytes(content)


def test_pair_gives_images_with_a_channel_and_int32_labels(tmp_path):
    images, labels = write_fashion_mnist(tmp_path, 8, 5)
    found = read_idx_images(*find_idx_files(tmp_path)["test"], 10, (28, 28, 1))
    np.testing.assert_array_equal(found.images, images[8:, ..., None])
    np.testing.assert_array_equal(found.labels, labels[8:])
    assert found.labels.dtype == np.int32


def test_pair_that_does_not_fit_is_refused_by_both_names(tmp_path):
    write_fashion_mnist(tmp_path, 8, 5)
    files = find_idx_files(tmp_path)
    with pytest.raises(DataError, match="train-images.* with t10k-labels.* beside 8 images"):
        read_idx_images(files["train"][0], files["test"][1])
    with pytest.raises(DataError, match=r"uint8 and shape \[8\]; images are"):
        read_idx_images(files["train"][1], files["train"][0])
