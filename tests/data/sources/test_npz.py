"""Images and labels in an `.npz` file: what is written comes back, and damage is told."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from small_data import damaged

from comm_lopt.data.feeding.examples import SPLITS
from comm_lopt.data.sources.folder import DataError
from comm_lopt.data.sources.npz import npz_datasets, read_npz

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 4, 4, 3)).astype(np.uint8)
LABELS = RNG.integers(0, 5, 60)
LABELS[:5] = np.arange(5)
KERAS = {
    "x_train": IMAGES[:40],
    "y_train": LABELS[:40, None].astype(np.uint8),
    "x_test": IMAGES[40:],
    "y_test": LABELS[40:, None].astype(np.uint8),
}
PLAIN = {"image": IMAGES[..., 0], "label": LABELS}


def npz_bytes(arrays, save=np.savez):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def written(tmp_path, arrays, save=np.savez):
    path = tmp_path / "data.npz"
    path.write_bytes(npz_bytes(arrays, save))
    return path


def sizes(datasets):
    return [len(datasets.array_of(name, "label")) for name in SPLITS]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back(tmp_path, save):
    found = read_npz(written(tmp_path, KERAS, save))
    assert set(found) == set(KERAS)
    for name, array in KERAS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_kerass_files_give_stretches_of_training_and_their_own_test(tmp_path, save):
    datasets = npz_datasets(str(written(tmp_path, KERAS, save)), batch_size=4)
    parts = [slice(0, 32), slice(32, 36), slice(36, 40), slice(40, 60)]
    for name, part in zip(SPLITS, parts, strict=True):
        np.testing.assert_array_equal(datasets.array_of(name, "image"), IMAGES[part])
        np.testing.assert_array_equal(datasets.array_of(name, "label"), LABELS[part])
    assert datasets.extra_info["num_classes"] == 5


def test_images_without_a_test_set_are_divided_in_one_fixed_random_order(tmp_path):
    path = written(tmp_path, PLAIN)
    one, other = npz_datasets(str(path), batch_size=4), npz_datasets(path, batch_size=2, seed=9)
    assert sizes(one) == [48, 3, 3, 6]
    shown = []
    for name in SPLITS:
        images, labels = (one.array_of(name, key) for key in ("image", "label"))
        np.testing.assert_array_equal(images, other.array_of(name, "image"))
        shown += [(image.tobytes(), label) for image, label in zip(images, labels, strict=True)]
    expected = [
        (image.tobytes(), label) for image, label in zip(PLAIN["image"], LABELS, strict=True)
    ]
    assert shown != expected
    assert sorted(shown) == sorted(expected)


def test_classes_may_be_more_than_the_labels_show(tmp_path):
    datasets = npz_datasets(str(written(tmp_path, PLAIN)), batch_size=4, num_classes=7)
    assert datasets.extra_info["num_classes"] == 7


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("arrays", [KERAS, PLAIN], ids=["Keras", "plain"])
def test_file_damaged_anywhere_is_refused_or_gives_the_same_arrays(tmp_path, save, arrays):
    path = tmp_path / "data.npz"
    whole = npz_bytes(arrays, save)
    refused = 0
    for content in damaged(whole, cuts=40, flips=300):
        path.write_bytes(content)
        try:
            found = read_npz(path)
        except DataError:
            refused += 1
            continue
        for name, array in found.items():
            np.testing.assert_array_equal(array, arrays[name])
        if set(found) != set(arrays):
            # Damage to the directory can hide arrays, and those are missed.
            with pytest.raises(DataError, match="it needs image and label"):
                npz_datasets(path, batch_size=4)
    assert refused >= 40


def directory_offset(content, field):
    """Where a field of the first entry of a zip file's directory is."""
    return content.index(b"PK\x01\x02") + field


@pytest.mark.parametrize(
    ("field", "value"), [(6, 210), (8, 1), (8, 32), (10, 99), (10, 8), (10, 14), (46, 120)]
)
def test_directory_that_asks_for_another_way_to_unpack_is_refused(tmp_path, field, value):
    content = bytearray(npz_bytes(PLAIN))
    content[directory_offset(bytes(content), field)] = value
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as .npz"):
        read_npz(path)


def test_array_longer_than_its_header_says_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    array = io.BytesIO()
    np.save(array, LABELS)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("label.npy", array.getvalue() + b"x")
    with pytest.raises(DataError, match="label.npy is longer than its header says"):
        read_npz(path)


def zipped(path, name, header, content=b""):
    """Writes a file with one array, whose header may say what it likes."""
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        array, {"descr": "|u1", "fortran_order": False, "shape": (1,), **header}
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{name}.npy", array.getvalue() + content)


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({"shape": (10**12,)}, "is of uint8.1000000000000. and has"),
        ({"shape": (10**9, 10**9, 10**9)}, "cannot be read"),
        ({"descr": "|V0", "shape": (10**12,)}, "have no size"),
        ({"descr": "|S1000000000"}, "and has"),
    ],
)
def test_array_that_says_it_is_larger_than_the_file_is_refused_before_it_is_made(
    tmp_path, header, told
):
    path = tmp_path / "data.npz"
    zipped(path, "image", header)
    with pytest.raises(DataError, match=told):
        read_npz(path)


def test_small_file_that_unpacks_to_a_lot_is_refused_before_it_does(tmp_path):
    path = tmp_path / "data.npz"
    zipped(path, "image", {"shape": (80_000_000,)}, bytes(80_000_000))
    with pytest.raises(DataError, match="unpacks to 80000[0-9]+ bytes, more than 67108864"):
        read_npz(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packing_than_numpys_is_refused_before_anything_is_unpacked(tmp_path, method):
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("image.npy", bytes(30_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"image.npy is packed by method {method}; NumPy"):
            read_npz(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_pickled_arrays_are_refused_and_not_run(tmp_path):
    labels = np.asarray([{"a": 1}] * 60, dtype=object)
    path = written(tmp_path, {"image": IMAGES, "label": labels})
    with pytest.raises(DataError, match="allow_pickle=False"):
        npz_datasets(str(path))


@pytest.mark.parametrize(
    "content", [b"", b"text", npz_bytes(PLAIN)[1:], b"\x93NUMPY\x01\x00"], ids=range(4)
)
def test_other_kinds_of_file_are_refused(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} cannot be read as .npz .* another kind of file"):
        npz_datasets(str(path))


def test_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*nowhere.npz"):
        npz_datasets(str(tmp_path / "nowhere.npz"))


@pytest.mark.parametrize("missing", ["x_train", "y_test", "image", "label"])
def test_missing_arrays_are_told(tmp_path, missing):
    arrays = dict(KERAS if missing in KERAS else PLAIN)
    del arrays[missing]
    with pytest.raises(DataError, match=r"holds \[.*\]; it needs image and label, or x_train"):
        npz_datasets(str(written(tmp_path, arrays)))


@pytest.mark.parametrize(
    ("changed", "arguments", "told"),
    [
        ({"label": LABELS + 1}, {"num_classes": 5}, "has the label 5; labels lie in 0 to 4"),
        ({"label": LABELS - 1}, {}, "has the label -1"),
        ({"label": LABELS.astype(np.float32)}, {}, "labels of type float32"),
        ({"label": LABELS[:-1]}, {}, "beside 60 images"),
        ({"image": IMAGES / 255}, {}, "images of type float64"),
        ({}, {"image_size": 8}, "images of 4 pixels and image_size=8"),
    ],
)
def test_arrays_that_are_not_images_and_labels_are_refused(tmp_path, changed, arguments, told):
    path = written(tmp_path, {**PLAIN, **changed})
    with pytest.raises(DataError, match=told):
        npz_datasets(str(path), batch_size=4, **arguments)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"x_test": IMAGES[40:, :2, :2]}, r"images of \[2, 2, 3\] and here they are \[4, 4, 3\]"),
        ({"y_test": KERAS["y_test"] + 1}, "has the label 5"),
    ],
)
def test_test_set_that_does_not_fit_is_refused(tmp_path, changed, told):
    with pytest.raises(DataError, match=told):
        npz_datasets(written(tmp_path, {**KERAS, **changed}), batch_size=4, num_classes=5)


def test_too_few_images_for_a_split_are_an_error_that_names_it(tmp_path):
    few = {key: array[:8] for key, array in PLAIN.items()}
    with pytest.raises(ValueError, match="split 'outer_valid' has no examples; pass more data"):
        npz_datasets(str(written(tmp_path, few)), batch_size=4)


@pytest.mark.parametrize("batch_size", [0, 49])
def test_batch_size_out_of_range_is_an_error(tmp_path, batch_size):
    with pytest.raises(ValueError, match=f"batch_size={batch_size}"):
        npz_datasets(str(written(tmp_path, PLAIN)), batch_size=batch_size)
