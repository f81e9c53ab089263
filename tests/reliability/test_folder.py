"""One run in a folder at a time; a folder that cannot be written is told, and nothing lost."""

import contextlib
import errno
import os
import pathlib
import subprocess

import filelock
import orbax.checkpoint as ocp
import pytest
from small_run import checkpoint_steps, finish, rows, run, start, temporary_files, theta_bytes

from comm_lopt.meta_train import SaveError
from comm_lopt.meta_train import loop as loop_module
from comm_lopt.meta_train.log import MetaTrainLog


@contextlib.contextmanager
def small_disk(folder, size):
    """A disk of its own in `folder`; the test is left out where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user cannot mount a small disk")
    try:
        yield lambda new: subprocess.run(
            ["mount", "-o", f"remount,size={new}", str(folder)], check=True
        )
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_second_run_in_a_folder_is_refused(tmp_path):
    refused = pytest.raises(FileExistsError, match="another process is at the run in")
    with filelock.FileLock(tmp_path / ".lock"), refused:
        run(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}
    run(tmp_path, "num_meta_steps = 2")


def test_started_run_is_not_begun_anew_before_its_first_meta_step(tmp_path):
    (tmp_path / "checkpoints" / "0").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="pass --resume"):
        run(tmp_path)


def test_folder_that_cannot_be_written_is_told_before_any_work(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(SaveError, match="file/run cannot be written .*another --train_log_dir"):
        run(tmp_path / "file" / "run")


def test_file_of_the_data_that_cannot_be_read_is_not_blamed_on_the_folder(tmp_path, monkeypatch):
    def failing(self, *args):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "train.npy")

    monkeypatch.setattr(loop_module.Run, "go_on", failing)
    with pytest.raises(OSError, match="Input/output error: 'train.npy'") as told:
        run(tmp_path)
    assert not isinstance(told.value, SaveError)


def test_theta_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "theta").write_text("in the way", encoding="utf-8")
    with pytest.raises(SaveError, match="cannot be written .*File exists.*--resume"):
        run(tmp_path)


@pytest.mark.reliability
def test_full_disk_ends_the_run_and_the_last_checkpoint_loads(tmp_path):
    bindings = ["num_meta_steps = 8", "meta_train.keep_checkpoints = 100"]
    with small_disk(tmp_path / "disk", "1200k") as resize:
        folder = tmp_path / "disk" / "run"
        status, printed = finish(start(folder, *bindings))
        assert status == 5, printed
        told = printed[printed.index("comm-lopt meta-train: ") :]
        assert "cannot be written" in told and "No space left on device" in told
        assert "go on with --resume" in told
        assert 0 < len(checkpoint_steps(folder)) < 9
        resize("32m")
        status, printed = finish(start(folder, *bindings, resume=True))
        assert status == 0, printed
        assert "damaged" not in printed
        whole = tmp_path / "whole"
        assert finish(start(whole, *bindings))[0] == 0
        assert theta_bytes(folder) == theta_bytes(whole)
        assert rows(folder) == rows(whole)
        assert temporary_files(folder) == set()


def test_save_that_fails_names_the_newest_checkpoint_and_keeps_it(tmp_path, monkeypatch):
    save = ocp.AsyncCheckpointer.save

    def full_from_two_on(self, directory, *args, **kwargs):
        if int(pathlib.Path(directory).name) >= 2:
            raise OSError(28, os.strerror(28))
        return save(self, directory, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(ocp.AsyncCheckpointer, "save", full_from_two_on)
        with pytest.raises(SaveError, match="meta-step 2 cannot.*No space left.*of meta-step 1"):
            run(tmp_path)
    run(tmp_path, resume=True)
    assert [row["meta_step"] for row in rows(tmp_path)] == ["1", "2", "3", "4"]


def test_log_on_a_full_disk_says_so_and_does_not_hang(tmp_path):
    row = dict.fromkeys(("meta_loss", "meta_gradient_norm", "skipped", "seconds"), 1.0)
    with small_disk(tmp_path / "disk", "64k"):
        log = MetaTrainLog(tmp_path / "disk", 0, 5000, progress=False)
        with pytest.raises(SaveError, match="No space left on device"):
            for meta_step in range(1, 5000):
                log.write({"meta_step": meta_step, **row})
        log.close()


def test_row_that_a_killed_process_wrote_in_part_is_dropped(tmp_path):
    log = MetaTrainLog(tmp_path, 0, 20, progress=False)
    row = dict.fromkeys(("meta_loss", "meta_gradient_norm", "skipped", "seconds"), 1.0)
    for meta_step in range(1, 13):
        log.write({"meta_step": meta_step, **row})
    log.close()
    path = tmp_path / "metrics.csv"
    # "1" of "13,1.0,..." would pass for meta-step 1, and be there twice.
    path.write_bytes(path.read_bytes() + b"1")
    MetaTrainLog(tmp_path, 10, 20, progress=False).close()
    assert [found["meta_step"] for found in rows(tmp_path)] == [str(n) for n in range(1, 11)]
