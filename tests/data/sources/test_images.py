"""Checks and splits of labelled images."""

import fractions

import jax
import numpy as np
import pytest
from small_data import labelled_examples

from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.examples import SPLITS
from comm_lopt.data.feeding.streams import StreamDatasets
from comm_lopt.data.sources.folder import DataError
from comm_lopt.data.sources.images import LabelledImages, check_images, image_datasets
from comm_lopt.data.sources.splits import percent_splits

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3)).astype(np.uint8)
LABELS = np.asarray([0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.uint64, ">i4"])
def test_labels_of_any_integer_type_become_int32(dtype):
    found = check_images("here", IMAGES, LABELS.astype(dtype), 3, (4, 4, 3))
    np.testing.assert_array_equal(found.images, IMAGES)
    assert found.labels.dtype == np.int32
    np.testing.assert_array_equal(found.labels, LABELS)


def test_grey_images_get_a_channel_and_a_column_of_labels_loses_one():
    found = check_images("here", IMAGES[..., 0], LABELS[:, None], 3, (4, 4, 1))
    np.testing.assert_array_equal(found.images, IMAGES[..., :1])
    np.testing.assert_array_equal(found.labels, LABELS)


def test_mapped_images_are_not_read(tmp_path):
    np.save(tmp_path / "images", IMAGES)
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    found = check_images("here", images, LABELS)
    assert np.shares_memory(found.images, images)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (IMAGES.astype(np.float32), "images of type float32"),
        (IMAGES.astype(np.int8), "images of type int8"),
        (IMAGES[0, 0], r"shape \[4, 3\]"),
        (IMAGES[None], r"shape \[1, 6, 4, 4, 3\]"),
        (IMAGES[:, :3], r"shape \[6, 3, 4, 3\]"),
        (IMAGES.transpose(0, 3, 1, 2), r"shape \[6, 3, 4, 4\]"),
        (IMAGES[:, :0, :0], r"shape \[6, 0, 0, 3\]"),
        (IMAGES[..., :0], r"shape \[6, 4, 4, 0\]"),
    ],
)
def test_what_is_no_image_is_refused(images, told):
    with pytest.raises(DataError, match=f"^here has .*{told}.*; images are uint8"):
        check_images("here", images, LABELS)


def test_images_of_another_size_are_refused():
    with pytest.raises(DataError, match=r"here has images of \[4, 4, 3\] .* are \[8, 8, 3\]"):
        check_images("here", IMAGES, LABELS, 3, (8, 8, 3))


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (LABELS.astype(np.float32), "labels of type float32"),
        (LABELS.astype(bool), "labels of type bool"),
        (LABELS[:-1], r"shape \[5\] beside 6 images"),
        (np.stack([LABELS, LABELS], 1), r"shape \[6, 2\]"),
        (np.asarray(2), r"shape \[\]"),
        (np.asarray(list("abcdef")), "labels of type <U1"),
    ],
)
def test_what_are_no_labels_is_refused(labels, told):
    with pytest.raises(DataError, match=f"^here has .*{told}.* one label, an integer, an image"):
        check_images("here", IMAGES, labels)


@pytest.mark.parametrize(
    ("wrong", "num_classes", "told"),
    [
        (3, 3, "label 3; labels lie in 0 to 2"),
        (-1, 3, "label -1; labels lie in 0 to 2"),
        (-1, None, "label -1; labels lie in 0"),
        (2**31, None, "label 2147483648; labels lie in 0 to 2147483647"),
        (2**40, 3, "label 1099511627776; labels lie in 0 to 2"),
    ],
)
def test_label_out_of_range_is_refused(wrong, num_classes, told):
    labels = LABELS.copy()
    labels[4] = wrong
    with pytest.raises(DataError, match=f"^here has the {told}"):
        check_images("here", IMAGES, labels, num_classes)


def test_any_label_from_0_on_passes_where_the_classes_are_not_known():
    labels = np.asarray([0, 1, 2, 3, 4, 2**31 - 1])
    np.testing.assert_array_equal(check_images("here", IMAGES, labels).labels, labels)


def test_no_images_pass():
    assert len(check_images("here", IMAGES[:0], LABELS[:0], 3).labels) == 0


@pytest.mark.parametrize("length", [*range(130), 997, 50000, 60000, 1281167, 2**31 + 1])
def test_percents_round_to_the_closest_as_tfds_does(length):
    for percent in range(101):
        (part,) = percent_splits(length, {"part": (percent, 100)}).values()
        # TFDS 4.9, core/splits.py: int(round(boundary * num_examples / 100.))
        assert part.start == int(round(percent * length / 100.0))
        assert part.start == round(fractions.Fraction(percent * length, 100))
        assert part.stop == length


def test_percents_of_known_data_sets_are_upstreams_numbers():
    parts = percent_splits(1281167, {"train": (0, 96), "a": (96, 98), "b": (98, 100)})
    assert parts == {
        "train": slice(0, 1229920),
        "a": slice(1229920, 1255544),
        "b": slice(1255544, 1281167),
    }


def test_part_of_labelled_images_is_a_part_of_both():
    part = LabelledImages(IMAGES, LABELS)[2:5]
    np.testing.assert_array_equal(part.images, IMAGES[2:5])
    np.testing.assert_array_equal(part.labels, LABELS[2:5])


@pytest.mark.parametrize(("resident", "kind"), [(True, DeviceDatasets), (False, StreamDatasets)])
def test_data_sets_of_images_lie_where_they_are_told_to(resident, kind):
    arrays = labelled_examples().splits
    splits = {name: LabelledImages(*arrays[name].values()) for name in SPLITS}
    datasets = image_datasets(splits, 3, 4, seed=5, resident=resident, largest_value=16)
    assert type(datasets) is kind
    assert datasets.extra_info["num_classes"] == 3
    assert datasets.extra_info["largest_value"] == 16
    examples = datasets.gather(next(datasets.train))
    expected = kind(labelled_examples(), 4, seed=5)
    jax.tree.map(np.testing.assert_array_equal, examples, expected.gather(next(expected.train)))
    for name in SPLITS:
        np.testing.assert_array_equal(datasets.array_of(name, "label"), arrays[name]["label"])
