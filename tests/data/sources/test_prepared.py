"""Prepared data: what lies in its place is whole, whatever happened before."""

import errno
import os
import signal
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from small_data import unfinished_counterpart
from small_prepared import (
    OTHER,
    RNG,
    TEST,
    TRAIN,
    assert_holds,
    batches_of,
    damage_header,
    damage_values,
    remove_file,
    write,
)

from comm_lopt.data.sources.folder import DataError
from comm_lopt.data.sources.prepared import exclusive, read_prepared, writing_prepared


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data" / "made_up"


def test_what_is_written_in_batches_is_read_back_whole_and_mapped(folder):
    write(folder, info={"tfds": "made_up:2.0.0", "sentences": 3})
    assert_holds(folder)
    arrays, info = read_prepared(folder)
    assert info == {"tfds": "made_up:2.0.0", "sentences": 3}
    assert isinstance(arrays["train"]["image"], np.memmap)
    assert not arrays["train"]["image"].flags.writeable


def test_files_are_plain_npy_files_of_the_length_written(folder):
    write(folder)
    names = {"train.image.npy", "train.label.npy", "test.image.npy", "test.label.npy"}
    assert {path.name for path in folder.iterdir()} == {*names, "dataset.json"}
    np.testing.assert_array_equal(np.load(folder / "train.image.npy"), TRAIN["image"])


def test_nothing_else_is_left_but_the_lock(folder):
    write(folder)
    assert {path.name for path in folder.parent.iterdir()} <= {folder.name, ".made_up.lock"}


@pytest.mark.parametrize("array", [np.float32([1.5, -2]), np.uint8([7, 8]), np.asarray([1], ">i8")])
def test_arrays_of_any_type_come_back(folder, array):
    with writing_prepared(folder) as writer:
        writer.write("train", iter([{"x": array}, {"x": array[:0]}, {"x": array[::-1]}]))
        writer.finish({})
    found = read_prepared(folder)[0]["train"]["x"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, np.concatenate([array, array[::-1]]))


@pytest.mark.parametrize("length", [1, 9, 10, 12345678901, 2**62])
def test_length_is_put_into_the_header_however_many_digits_it_has(folder, length):
    # Rows of no bytes, of which there can be any number.
    first, rest = np.zeros((1, 0), np.uint8), np.zeros((length - 1, 0), np.uint8)
    with writing_prepared(folder) as writer:
        assert writer.write("train", iter([{"x": first}, {"x": rest}])) == length
        writer.finish({})
    assert read_prepared(folder)[0]["train"]["x"].shape == (length, 0)


def test_many_small_batches_give_one_array(folder):
    rows = RNG.integers(0, 256, (300, 5)).astype(np.uint8)
    with writing_prepared(folder) as writer:
        writer.write("train", ({"x": row[None]} for row in rows))
        writer.finish({})
    np.testing.assert_array_equal(read_prepared(folder)[0]["train"]["x"], rows)


def write_and_fail(folder):
    with writing_prepared(folder) as writer:
        writer.write("train", batches_of(OTHER))
        raise KeyboardInterrupt


def test_interrupted_writer_leaves_nothing(folder):
    with pytest.raises(KeyboardInterrupt):
        write_and_fail(folder)
    assert not folder.exists()
    assert not unfinished_counterpart(folder).exists()
    with pytest.raises(FileNotFoundError, match=f"no prepared data set in {folder}"):
        read_prepared(folder)
    write(folder)
    assert_holds(folder)


def test_interruption_inside_a_batch_leaves_nothing(folder):
    def failing():
        yield {"x": np.zeros((2, 3))}
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"), writing_prepared(folder) as writer:
        writer.write("train", failing())
    assert not folder.exists()


def test_whole_data_set_is_not_written_over(folder):
    write(folder)
    with pytest.raises(FileExistsError, match=f"{folder} is there already and whole; remove it"):
        write(folder, OTHER)
    assert_holds(folder)


damages = pytest.mark.parametrize("damage", [damage_values, damage_header, remove_file])


@damages
def test_damaged_data_set_is_replaced(folder, damage):
    write(folder)
    damage(folder)
    write(folder, OTHER)
    assert_holds(folder, OTHER)


@damages
def test_damaged_data_set_stays_until_the_new_one_is_whole(folder, damage):
    write(folder)
    damage(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        write_and_fail(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_empty_folder_is_filled(folder):
    folder.mkdir(parents=True)
    write(folder)
    assert_holds(folder)


def test_folder_of_something_else_is_left_alone_and_told_at_once(folder):
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte").write_text("precious", encoding="utf-8")
    with (
        pytest.raises(FileExistsError, match=f"{folder} holds something else .* move it away"),
        writing_prepared(folder),
    ):
        pytest.fail("the work should not have begun")
    assert (folder / "train-images-idx3-ubyte").read_text(encoding="utf-8") == "precious"


WRITER = """
import pathlib, sys
import numpy as np
from comm_lopt.data.sources.prepared import writing_prepared
def endless():
    for _ in range(40):
        yield {"x": np.ones((1000, 5))}
    print("in the middle", flush=True)
    sys.stdin.read()
with writing_prepared(pathlib.Path(sys.argv[1])) as writer:
    writer.write("test", iter([{"x": np.ones(3)}]))
    writer.write("train", endless())
"""


@pytest.fixture
def process_in_the_middle(folder):
    """Another process that is writing `folder` and has come half-way."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    with process:
        try:
            assert process.stdout.readline() == b"in the middle\n"
            yield process
        finally:
            process.kill()


def test_second_process_is_refused_and_a_killed_one_leaves_nothing_to_read(
    folder, process_in_the_middle
):
    with pytest.raises(FileExistsError, match=f"another process is preparing {folder}; wait"):
        write(folder)
    assert unfinished_counterpart(folder).exists()
    process_in_the_middle.send_signal(signal.SIGKILL)
    process_in_the_middle.wait(timeout=30)
    with pytest.raises(FileNotFoundError):
        read_prepared(folder)
    write(folder)
    assert_holds(folder)
    assert not unfinished_counterpart(folder).exists()


def test_remains_of_an_earlier_attempt_do_not_come_into_the_next(folder):
    unfinished = unfinished_counterpart(folder)
    unfinished.mkdir(parents=True)
    (unfinished / "stale.npy").write_bytes(b"stale")
    write(folder)
    assert_holds(folder)
    assert not (folder / "stale.npy").exists()


@pytest.fixture(params=["link", "dangling link", "link above", "dangling link above"])
def linked(request, tmp_path, folder):
    """A folder that is a link, or lies behind one, and where it then really lies."""
    elsewhere = tmp_path / "elsewhere" / "deep"
    link = folder.parent if "above" in request.param else folder
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere)
    if "dangling" not in request.param:
        elsewhere.mkdir(parents=True)
    return folder, elsewhere / folder.name if link != folder else elsewhere


def test_data_set_comes_to_lie_where_a_link_leads(linked):
    folder, place = linked
    write(folder)
    assert_holds(folder)
    assert_holds(place)
    damage_header(folder)
    write(folder, OTHER)
    assert_holds(place, OTHER)
    left = {path.name for path in place.parent.iterdir()}
    assert left <= {place.name, f".{place.name}.lock"}


def test_finished_work_that_cannot_be_moved_stays_and_is_told(folder):
    unfinished = unfinished_counterpart(folder)
    with (
        pytest.raises(OSError, match=f"whole and lies in {unfinished}; it cannot be moved"),
        writing_prepared(folder) as writer,
    ):
        writer.write("train", batches_of(TRAIN))
        writer.write("test", iter([TEST]))
        writer.finish({})
        folder.mkdir()
        (folder / "precious").touch()
    assert_holds(unfinished)
    (folder / "precious").unlink()
    with pytest.raises(FileExistsError, match=f"{unfinished} is the whole data set.* move it"):
        write(folder)
    assert_holds(unfinished)


def test_two_links_to_one_folder_are_one_place(tmp_path, folder):
    other = tmp_path / "other"
    other.symlink_to(folder)
    with exclusive(folder), pytest.raises(FileExistsError, match="another process"):
        write(other)


def test_data_set_that_cannot_be_read_just_now_is_not_replaced(folder):
    write(folder)
    with (
        mock.patch("pathlib.Path.read_text", side_effect=OSError(errno.EIO, "no")),
        pytest.raises(OSError, match="no"),
    ):
        write(folder, OTHER)
    assert_holds(folder)


def test_only_one_at_a_time_makes_a_folder_and_the_next_may_after_it(folder):
    with exclusive(folder):
        with pytest.raises(FileExistsError, match="another process"), exclusive(folder):
            pytest.fail("two at once")
        with exclusive(folder.with_name("another")):
            pass
    with exclusive(folder):
        pass


@pytest.mark.parametrize(
    "second",
    [
        {"x": np.zeros((2, 4))},
        {"x": np.zeros((2, 3), np.float32)},
        {"y": np.zeros((2, 3))},
        {"x": np.zeros((2, 3)), "y": np.zeros(2)},
        {"x": np.zeros((2, 3, 1))},
    ],
)
def test_batches_that_differ_are_refused_and_leave_nothing(folder, second):
    first = {"x": np.zeros((2, 3))}
    told = pytest.raises(DataError, match="'train': a batch of .* after")
    with told, writing_prepared(folder) as writer:
        writer.write("train", iter([first, second]))
    assert not folder.exists()


def test_split_without_examples_is_refused(folder):
    told = pytest.raises(DataError, match="split 'train' has no examples")
    with told, writing_prepared(folder) as writer:
        writer.write("train", iter([]))
    assert not folder.exists()
