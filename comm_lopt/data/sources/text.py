"""Text, read as bytes: any UTF-8 file, Python's reference topics and library, and LM1B."""

from __future__ import annotations

import functools
import os
import pathlib
import sysconfig
from collections.abc import Mapping

import gin
import numpy as np

from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.examples import TextWindows
from comm_lopt.data.feeding.streams import StreamDatasets
from comm_lopt.data.sources.folder import DataError, user_path
from comm_lopt.data.sources.prepared_source import PreparedSource, load_texts
from comm_lopt.data.sources.source import BundledSource, YourSource
from comm_lopt.data.sources.splits import LAST_FIFTH_HELD_OUT_WITH_TEST, percent_splits

__all__ = [
    "LM1B",
    "PYTHON_LIBRARY",
    "PYTHON_TOPICS",
    "TEXT_FILE",
    "lm1b_datasets",
    "python_library_datasets",
    "python_topics_datasets",
    "read_text",
    "text_file_datasets",
]

LM1B = PreparedSource(
    name="lm1b",
    tfds_name="lm1b:1.1.0",
    summary="the One Billion Word benchmark: 30 million English sentences, read as bytes",
    configurable="lm1b_datasets",
    percents={"inner_valid": (0, 1), "outer_valid": (1, 2), "train": (2, 100)},
)
PYTHON_TOPICS = BundledSource(
    name="python_topics",
    summary="500 KB of text, Python's help() topics",
    configurable="python_topics_datasets",
    where="part of Python",
)
PYTHON_LIBRARY = BundledSource(
    name="python_library",
    summary="2 MB of text, source of modules of Python's standard library",
    configurable="python_library_datasets",
    where="part of Python",
)
TEXT_FILE = YourSource(
    name="text_file",
    summary="any UTF-8 text, read as bytes",
    configurable="text_file_datasets",
    yours="text_file_datasets.path",
)

_NUM_BYTES = 256
# One file each in every CPython from 3.11 on, and in none of them what `help()` topics quote.
_LIBRARY_MODULES = (
    "argparse", "ast", "calendar", "configparser", "csv", "difflib", "doctest", "enum", "fractions",
    "functools", "gettext", "heapq", "imaplib", "inspect", "ipaddress", "mailbox", "optparse", "os",
    "pickle", "pickletools", "platform", "random", "shutil", "smtplib", "socket", "statistics",
    "subprocess", "tarfile", "tempfile", "textwrap", "threading", "traceback", "typing", "uuid",
    "weakref",
)  # fmt: skip


def read_text(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a text file as bytes: uint8 [N].

    Raises:
      FileNotFoundError: there is no such file.
      DataError: it is not UTF-8; says where it is not.
    """
    content = user_path(path).read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at position "
            f"{error.start}; convert it, for example with iconv."
        ) from error
    return np.frombuffer(content, np.uint8)


@gin.configurable(module="comm_lopt")
def text_file_datasets(
    path: str = gin.REQUIRED, length: int = 64, batch_size: int = 32, seed: int = 0
) -> ExampleDatasets:
    """Windows of any UTF-8 text file, on the device.

    Splits: the first 80 % of the bytes are train, then 5 % inner_valid, 5 % outer_valid and
    10 % test.

    Args:
      path: the file.
      length: L, bytes that a window gives to read; each is followed by one to predict.
      batch_size: B.
      seed: seed of the order in which training draws windows.

    Raises:
      FileNotFoundError: there is no such file.
      DataError: it is not UTF-8.
      ValueError: L or B below 1, or a split shorter than a window.
    """
    return _resident_text(read_text(path), length, batch_size, seed)


@gin.configurable(module="comm_lopt")
def python_topics_datasets(
    length: int = 64, batch_size: int = 32, seed: int = 0
) -> ExampleDatasets:
    """Windows of the text behind Python's `help()` topics, which every CPython carries.

    About 500 KB of English and code; they differ from one Python version to the next. Splits
    as in `text_file_datasets`.

    Args:
      length: L, bytes that a window gives to read.
      batch_size: B.
      seed: seed of the order in which training draws windows.

    Raises:
      ModuleNotFoundError: this Python has been stripped of `pydoc_data`.
      ValueError: L or B below 1.
    """
    return _resident_text(_python_topics(), length, batch_size, seed)


@gin.configurable(module="comm_lopt")
def python_library_datasets(
    length: int = 64, batch_size: int = 32, seed: int = 0
) -> ExampleDatasets:
    """Windows of the source of Python's standard library, which every CPython carries.

    About 2 MB, of 35 modules; they differ, as does their digest, from one Python version to the
    next. Splits as in `text_file_datasets`.

    Args:
      length: L, bytes that a window gives to read.
      batch_size: B.
      seed: seed of the order in which training draws windows.

    Raises:
      FileNotFoundError: this Python keeps no source of its library.
      ValueError: L or B below 1.
    """
    return _resident_text(_python_library(), length, batch_size, seed)


@gin.configurable(module="comm_lopt")
def lm1b_datasets(
    length: int = 64,
    batch_size: int = 32,
    seed: int = 0,
    folder: str | None = None,
    resident: bool = False,
) -> ExampleDatasets:
    """Windows of LM1B, sentence after sentence with a line feed after each, streamed.

    Splits, as upstream's in percent of the training text: the first 1 % is inner_valid, the
    next 1 % outer_valid, the rest train; TFDS's test text is test. (Upstream cuts between
    sentences and begins every window with one.)

    Args:
      length: L, bytes that a window gives to read.
      batch_size: B.
      seed: seed of the order in which training draws windows.
      folder: of the prepared data; `$COMM_LOPT_DATA/lm1b` if None.
      resident: keep all of it on the device, if it has less than 2³¹ bytes.

    Raises:
      FileNotFoundError: it has not been prepared; says how to.
      DataError: its files are damaged.
      ValueError: L or B below 1, or a resident text that is too long.
    """
    texts = load_texts(LM1B, folder)
    return _datasets(texts, length, batch_size, seed, resident)


@functools.lru_cache(maxsize=1)
def _python_topics() -> np.ndarray:
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    return np.frombuffer(text.encode("utf-8"), np.uint8)


@functools.lru_cache(maxsize=1)
def _python_library() -> np.ndarray:
    folder = pathlib.Path(sysconfig.get_path("stdlib"))
    files = [folder / f"{name}.py" for name in _LIBRARY_MODULES]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} has no {', '.join(missing)}: this Python keeps no source of its library; "
            "use one that does, or text_file_datasets with a text of your own."
        )
    return np.frombuffer(b"\n".join(file.read_bytes() for file in files), np.uint8)


def _resident_text(text: np.ndarray, length: int, batch_size: int, seed: int) -> ExampleDatasets:
    parts = percent_splits(len(text), LAST_FIFTH_HELD_OUT_WITH_TEST)
    texts = {name: text[part] for name, part in parts.items()}
    return _datasets(texts, length, batch_size, seed, resident=True)


def _datasets(
    texts: Mapping[str, np.ndarray], length: int, batch_size: int, seed: int, resident: bool
) -> ExampleDatasets:
    kind = DeviceDatasets if resident else StreamDatasets
    return kind(TextWindows(texts, length), batch_size, seed, {"num_classes": _NUM_BYTES})
