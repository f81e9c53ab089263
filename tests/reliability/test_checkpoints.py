"""Damaged checkpoints: the one before is taken, and named; none whole is an error."""

import json
import shutil
import warnings

import numpy as np
import pytest
from small_run import run, temporary_files, theta_bytes
from small_tasks import assert_trees_equal

from comm_lopt.meta_train import CheckpointError
from comm_lopt.meta_train.checkpoints import Checkpoints


def state(number):
    rng = np.random.default_rng(number)
    return {"a": rng.random((50, 3)).astype(np.float32), "flag": np.array(number % 2 == 0)}


def saved(folder, meta_steps, keep=5, best=None):
    checkpoints = Checkpoints(folder, keep)
    for number in meta_steps:
        checkpoints.save(number, state(number), {"number": number, "half": 0.1 * number}, best)
    checkpoints.wait()
    return checkpoints


def restored(folder):
    checkpoints = Checkpoints(folder)
    try:
        return checkpoints.restore(state(0), lambda meta_step, info: None)
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


@pytest.mark.parametrize("damage", [truncate, flip, lambda file: file.unlink()])
def test_each_damaged_file_is_found_or_does_no_harm(tmp_path, damage):
    whole = tmp_path / "whole"
    saved(whole, [1, 2]).close()
    names = [path.relative_to(whole) for path in (whole / "2").rglob("*") if path.is_file()]
    assert len(names) > 5
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
            assert not (folder / "2").exists()
        shutil.rmtree(folder)
    assert fell_back >= 3


def test_number_changed_in_the_info_is_found(tmp_path):
    saved(tmp_path, [1, 2]).close()
    (file,) = (tmp_path / "2" / "info").glob("metadata")
    info = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**info, "number": 7}), encoding="utf-8")
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


def test_what_killed_processes_left_is_removed(tmp_path):
    saved(tmp_path, [1]).close()
    for name in ("2.orbax-checkpoint-tmp", ".removed-0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x", encoding="utf-8")
    Checkpoints(tmp_path).close()
    assert temporary_files(tmp_path) == set()


def test_run_goes_on_from_the_one_before_to_the_same_bits(tmp_path):
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
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
