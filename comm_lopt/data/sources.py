"""Every source of data by name: where it is, and how to get it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from comm_lopt.data.catalogue import PREPARED, PreparedSource, prepared_folder
from comm_lopt.data.fashion_mnist import find_fashion_mnist
from comm_lopt.data.idx import find_idx_files
from comm_lopt.data.prepared import read_prepared

__all__ = ["SOURCES", "SourceEntry"]


@dataclasses.dataclass(frozen=True)
class SourceEntry:
    """A source of data in the registry.

    Attributes:
      summary: what it holds.
      configurable: the gin configurable that makes data sets of it.
      find: returns where it is; raises FileNotFoundError, which says how to get it, or
        DataError if what is there is damaged.
      yours: the gin parameter that names a file or folder of the user's, or "".
    """

    summary: str
    configurable: str
    find: Callable[[], str]
    yours: str = ""


def _prepared(source: PreparedSource, configurable: str) -> SourceEntry:
    def find() -> str:
        folder = prepared_folder(source)
        read_prepared(folder)
        return str(folder)

    return SourceEntry(source.summary, configurable, find)


def _fashion_mnist() -> str:
    folder = find_fashion_mnist()
    if find_idx_files(folder) is None:
        read_prepared(folder)
    return str(folder)


def _yours(summary: str, configurable: str, argument: str) -> SourceEntry:
    parameter = f"{configurable}.{argument}"
    return SourceEntry(summary, configurable, lambda: f"where {parameter} says", parameter)


SOURCES: Mapping[str, SourceEntry] = {
    "digits": SourceEntry(
        "1,797 images 8x8x1 of digits in 10 classes",
        "digits_datasets",
        lambda: "bundled with scikit-learn",
    ),
    "python_topics": SourceEntry(
        "500 KB of text, Python's help() topics",
        "python_topics_datasets",
        lambda: "part of Python",
    ),
    "fashion_mnist": SourceEntry(
        PREPARED["fashion_mnist"].summary, "fashion_mnist_datasets", _fashion_mnist
    ),
    "cifar10": _prepared(PREPARED["cifar10"], "cifar10_datasets"),
    "cifar100": _prepared(PREPARED["cifar100"], "cifar100_datasets"),
    "imagenet32": _prepared(PREPARED["imagenet32"], "imagenet_datasets"),
    "imagenet64": _prepared(PREPARED["imagenet64"], "imagenet_datasets"),
    "lm1b": _prepared(PREPARED["lm1b"], "lm1b_datasets"),
    "idx_folder": _yours("a folder of four IDX files, as MNIST's", "idx_folder_datasets", "folder"),
    "npz": _yours("images and labels in an .npz file", "npz_datasets", "path"),
    "text_file": _yours("any UTF-8 text, read as bytes", "text_file_datasets", "path"),
}
