"""Checkpoints: read back from any path; a damaged one is set aside, an unreadable one told."""

import errno
import json
import logging
import os
import pathlib
import shutil
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_run import run, temporary_files, theta_bytes
from small_tasks import assert_trees_equal

from comm_lopt.long_runs import checkpoints as checkpoints_module
from comm_lopt.long_runs.checkpoints import Checkpoints
from comm_lopt.meta_train import CheckpointError, ResumeError, SaveError


def state(number):
    rng = np.random.default_rng(number)
    return {"a": rng.random((50, 3)).astype(np.float32), "flag": np.array(number % 2 == 0)}


def saved(folder, meta_steps, keep=5, best=None):
    checkpoints = Checkpoints(folder, keep)
    for number in meta_steps:
        checkpoints.save(number, state(number), {"number": number, "half": 0.1 * number}, best)
    checkpoints.wait()
    return checkpoints


def restored(folder, template=None):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(lambda meta_step, info: template or state(0))
    finally:
        checkpoints.close()


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    content = bytearray(file.read_bytes())
    if content:
        content[len(content) // 2] ^= 0x55
    file.write_bytes(content)


def test_newest_comes_back_bit_for_bit(tmp_path):
    saved(tmp_path, [1, 2, 3]).close()
    found = restored(tmp_path)
    assert found.meta_step == 3
    assert_trees_equal(found.state, state(3))
    assert found.info == {"number": 3, "half": 0.1 * 3}


@pytest.mark.parametrize(
    "name",
    [
        "hidden=[256, 256]_lr=0.1",
        "a*b?{c,d}",
        "x#y%20&",
        "é 中",
        "a'b\"\\",
        "gs:",
        "-x",
        "~",
        "a\nb ",
    ],
)
def test_any_path_can_be_read_back(tmp_path, name):
    saved(tmp_path / name, [1, 2]).close()
    assert_trees_equal(restored(tmp_path / name).state, state(2))


def test_names_that_look_alike_types_and_sizes_come_back(tmp_path):
    mixed = {
        "a.b": np.float32(1),
        "a": {"b": np.float32(2), "['b']": jnp.full((2,), 3, jnp.bfloat16)},
        "list": [np.zeros((0, 3), np.float32), np.array(True), np.uint32([4, 5])],
        "columns first": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, mixed, {})
    checkpoints.wait()
    checkpoints.close()
    found = restored(tmp_path, jax.tree.map(np.zeros_like, mixed)).state
    assert_trees_equal(found, mixed)
    assert found["a"]["['b']"].dtype == jnp.bfloat16


def test_two_arrays_of_one_name_are_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ValueError, match="two arrays of the state have one name"):
        checkpoints.save(1, Twins(), {})
    checkpoints.close()


@jax.tree_util.register_pytree_with_keys_class
class Twins:
    def tree_flatten_with_keys(self):
        key = jax.tree_util.GetAttrKey("same")
        return [(key, np.float32(1)), (key, np.float32(2))], None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls()


def failing_reads(monkeypatch, name, number, times):
    """Has the first reads of files of one name fail; returns the list of those that did."""
    read, failed, slept = pathlib.Path.read_bytes, [], []

    def read_bytes(path):
        if path.name == name and len(failed) < times:
            failed.append(path)
            raise OSError(number, os.strerror(number), str(path))
        return read(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", read_bytes)
    monkeypatch.setattr(time, "sleep", slept.append)
    return failed


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_read_that_fails_for_a_moment_is_tried_again(tmp_path, monkeypatch, number):
    saved(tmp_path, [1, 2]).close()
    failed = failing_reads(monkeypatch, "arrays.safetensors", number, 2)
    assert restored(tmp_path).meta_step == 2
    assert len(failed) == 2


def test_read_that_goes_on_failing_is_an_error_and_changes_nothing(tmp_path, monkeypatch):
    saved(tmp_path, [1, 2]).close()
    before = sorted(tmp_path.rglob("*"))
    failing_reads(monkeypatch, "info.json", errno.ESTALE, 99)
    with pytest.raises(OSError, match="2 cannot be read .*Stale file handle.*nothing was changed"):
        restored(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_second_damaged_checkpoint_of_a_number_keeps_the_first(tmp_path):
    for again in ("2.damaged", "2.damaged1"):
        saved(tmp_path, [1, 2] if again == "2.damaged" else [2]).close()
        truncate(tmp_path / "2" / "state" / "arrays.safetensors")
        with pytest.warns(UserWarning, match=f"is now {again};"):
            assert restored(tmp_path).meta_step == 1
        assert (tmp_path / again / "state" / "arrays.safetensors").exists()


def test_checkpoint_of_the_earlier_format_is_refused_and_stays(tmp_path):
    (tmp_path / "3" / "info").mkdir(parents=True)
    (tmp_path / "3" / "info" / "metadata").write_text("{}", encoding="utf-8")
    with pytest.raises(ResumeError, match="of an earlier comm_lopt.*version that began the run"):
        restored(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_run_whose_first_checkpoint_cannot_be_read_back_ends_at_its_start(tmp_path, monkeypatch):
    packed = checkpoints_module.packed
    monkeypatch.setattr(
        checkpoints_module, "packed", lambda *args: {**packed(*args), "info.json": b"{}"}
    )
    with pytest.raises(SaveError, match="0 was written and cannot be read back .its content"):
        run(tmp_path)
    assert not (tmp_path / "metrics.csv").exists()


@pytest.mark.parametrize("damage", [truncate, flip, lambda file: file.unlink()])
def test_each_damaged_file_is_found_or_does_no_harm(tmp_path, damage):
    whole = tmp_path / "whole"
    saved(whole, [1, 2]).close()
    names = [path.relative_to(whole) for path in (whole / "2").rglob("*") if path.is_file()]
    assert {"arrays.safetensors", "info.json", "sha256"} <= {name.name for name in names}
    fell_back = 0
    for name in names:
        folder = tmp_path / "damaged"
        shutil.copytree(whole, folder)
        damage(folder / name)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = restored(folder)
        assert_trees_equal(found.state, state(found.meta_step))
        if found.meta_step == 1:
            fell_back += 1
            assert f"checkpoint {folder.resolve() / '2'} is damaged" in str(told[0].message)
            assert "is now 2.damaged" in str(told[0].message)
            assert not (folder / "2").exists() and (folder / "2.damaged").exists()
        shutil.rmtree(folder)
    assert fell_back >= 3


def test_number_changed_in_the_info_is_found(tmp_path):
    saved(tmp_path, [1, 2]).close()
    file = tmp_path / "2" / "state" / "info.json"
    saved_info = json.loads(file.read_text(encoding="utf-8"))
    saved_info["info"]["number"] = 7
    file.write_text(json.dumps(saved_info), encoding="utf-8")
    with pytest.warns(UserWarning, match="its content is not what was saved"):
        assert restored(tmp_path).info["number"] == 1


def test_empty_folders_of_two_checkpoints_are_passed_over(tmp_path):
    saved(tmp_path, [1]).close()
    for number in ("2", "3"):
        (tmp_path / number).mkdir()
    with pytest.warns(UserWarning, match="is damaged") as told:
        assert restored(tmp_path).meta_step == 1
    assert len(told) == 2


def test_none_whole_is_an_error_that_lists_them(tmp_path):
    saved(tmp_path, [1, 2]).close()
    for number in ("1", "2"):
        shutil.rmtree(tmp_path / number / "state")
    with pytest.raises(CheckpointError, match="no checkpoint in .* is whole .2: .*; 1: "):
        restored(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2"}


def test_newest_and_best_stay(tmp_path):
    checkpoints = saved(tmp_path, [0, 1, 2, 3, 4, 5, 6], keep=2, best=2)
    assert checkpoints.meta_steps == [2, 5, 6]
    checkpoints.close()


def test_save_that_fails_is_told_once_and_leaves_no_thread(tmp_path, monkeypatch, caplog):
    before = set(threading.enumerate())
    checkpoints = saved(tmp_path, [1])

    async def full(directory, files):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints_module, "_write_files", full)
    checkpoints.save(2, state(2), {})
    with pytest.raises(SaveError, match="No space left on device.*is of meta-step 1"):
        checkpoints.wait()
    checkpoints.close()
    assert not caplog.records
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before
    assert not logging.getLogger("absl").filters
    assert restored(tmp_path).meta_step == 1


def test_what_killed_processes_left_is_removed(tmp_path):
    saved(tmp_path, [1]).close()
    left = tmp_path / "2.orbax-checkpoint-tmp"
    left.mkdir()
    (left / "file").write_text("x", encoding="utf-8")
    saved(tmp_path, [2]).close()
    assert temporary_files(tmp_path) == set()


def test_run_goes_on_from_the_one_before_to_the_same_bits(tmp_path):
    whole, damaged = tmp_path / "whole", tmp_path / "hidden=[256, 256]_lr=0.1*?"
    run(whole)
    run(damaged, "num_meta_steps = 3")
    for file in (damaged / "checkpoints" / "3" / "state").rglob("*"):
        if file.is_file():
            truncate(file)
    with pytest.warns(UserWarning, match="going on from the one before it, of meta-step 2"):
        run(damaged, "num_meta_steps = 3", resume=True)
    # A schedule of another length gives other bits, so the comparison is among equals.
    again = tmp_path / "again"
    run(again, "num_meta_steps = 3")
    assert theta_bytes(damaged) == theta_bytes(again) != theta_bytes(whole)


def test_run_without_a_whole_checkpoint_does_not_begin_anew(tmp_path):
    run(tmp_path, "num_meta_steps = 2")
    shutil.rmtree(tmp_path / "checkpoints")
    before = theta_bytes(tmp_path)
    with pytest.raises(CheckpointError, match="there is none"):
        run(tmp_path, resume=True)
    assert theta_bytes(tmp_path) == before
