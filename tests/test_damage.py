"""Errors while a file is read: of the file, in one class, or of the machine, as they are."""

import errno

import pytest

from comm_lopt.damage import damage_as


class FileError(ValueError):
    """A reader's own class."""


@pytest.mark.parametrize(
    "error", [KeyError("x"), RecursionError("deep"), OverflowError(), OSError("bad"),
              OSError(errno.EINVAL, "negative seek"), UnicodeDecodeError("utf-8", b"x", 0, 1, "y")],
)  # fmt: skip
def test_what_a_file_makes_its_reader_raise_is_of_one_class(error):
    with (
        pytest.raises(FileError, match=rf"^a.npz is damaged \({type(error).__name__}: .*fetch it$"),
        damage_as(FileError, "a.npz is damaged", "fetch it"),
    ):
        raise error


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "disk"), PermissionError(errno.EACCES, "no"), MemoryError(),
              FileNotFoundError(errno.ENOENT, "gone"), FileError("told"), KeyboardInterrupt()],
)  # fmt: skip
def test_errors_of_the_machine_and_those_that_are_told_already_pass(error):
    with pytest.raises(type(error)) as told, damage_as(FileError, "a.npz is damaged", "fetch it"):
        raise error
    assert told.value is error
