"""One process at a time, also where files cannot be locked; leftovers of odd names go."""

import errno
import fcntl
import os
import warnings

import filelock
import pytest

from comm_lopt.atomic import BusyError, locked, remove_leftovers


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def no_flock(request, monkeypatch):
    """A file system on which `flock` fails."""

    def flock(file, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


def enter(lock):
    with locked(lock, "Somebody is here."):
        return True


def test_second_holder_is_told_which_lock_it_is(tmp_path):
    lock = tmp_path / ".lock"
    with filelock.FileLock(lock), pytest.raises(BusyError, match=rf"is here\. The lock is {lock}:"):
        enter(lock)
    assert enter(lock) and enter(lock)


@pytest.mark.usefixtures("no_flock")
def test_without_flock_one_process_at_a_time_gets_in(tmp_path):
    lock = tmp_path / ".lock"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with locked(lock, "Busy."), pytest.raises(BusyError, match=f"process {os.getpid()} on "):
            enter(lock)
        assert enter(lock)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_flock")
@pytest.mark.parametrize("left", ["4711\nanother-host\n", ""])
def test_lock_left_on_another_host_is_named_with_what_to_do(tmp_path, left):
    lock = tmp_path / ".lock"
    lock.write_text(left, encoding="utf-8")
    with pytest.raises(BusyError, match=f"{lock}: if no process .* remove that file") as told:
        enter(lock)
    assert ("4711 on another-host" in str(told.value)) == bool(left)
    lock.unlink()
    assert enter(lock)


def test_lock_that_fails_otherwise_is_told(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"):
        enter(tmp_path / ".lock")


def test_leftovers_of_a_name_with_pattern_characters_go_alone(tmp_path):
    for name in (".a[1].csv.77", ".a1.csv.77", "a[1].csv"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "a[1].csv")
    assert {path.name for path in tmp_path.iterdir()} == {".a1.csv.77", "a[1].csv"}
