"""Every source of data by name: where it is, and how to get it."""

from __future__ import annotations

from collections.abc import Mapping

from comm_lopt.data.sources.cifar import CIFAR10, CIFAR100
from comm_lopt.data.sources.digits import DIGITS
from comm_lopt.data.sources.fashion_mnist import FASHION_MNIST
from comm_lopt.data.sources.idx_folder import IDX_FOLDER
from comm_lopt.data.sources.imagenet import IMAGENET32, IMAGENET64
from comm_lopt.data.sources.npz import NPZ
from comm_lopt.data.sources.prepared_source import PreparedSource
from comm_lopt.data.sources.source import Source
from comm_lopt.data.sources.text import LM1B, PYTHON_LIBRARY, PYTHON_TOPICS, TEXT_FILE

__all__ = ["PREPARED", "SOURCES"]

_ALL: tuple[Source, ...] = (
    DIGITS,
    PYTHON_TOPICS,
    PYTHON_LIBRARY,
    FASHION_MNIST,
    CIFAR10,
    CIFAR100,
    IMAGENET32,
    IMAGENET64,
    LM1B,
    IDX_FOLDER,
    NPZ,
    TEXT_FILE,
)

SOURCES: Mapping[str, Source] = {source.name: source for source in _ALL}
"""By comm_lopt's name."""

PREPARED: Mapping[str, PreparedSource] = {
    name: source for name, source in SOURCES.items() if isinstance(source, PreparedSource)
}
"""Those that `comm-lopt data prepare NAME` brings here."""
