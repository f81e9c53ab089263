"""The data sets of TensorFlow Datasets that comm_lopt knows, and how it divides them.

`comm-lopt data prepare NAME` brings one into comm_lopt's own folder; reading it from there needs
no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from comm_lopt.data.folder import DATA_VARIABLE, DataError, data_folder
from comm_lopt.data.images import LabelledImages, check_images, percent_splits
from comm_lopt.data.prepared import read_prepared

__all__ = ["PREPARED", "PreparedSource", "load_images", "load_texts", "prepared_folder"]

Percents = tuple[int, int]

_LAST_FIFTH_HELD_OUT = {"train": (0, 80), "inner_valid": (80, 90), "outer_valid": (90, 100)}
_LAST_FOUR_HELD_OUT = {"train": (0, 96), "inner_valid": (96, 98), "outer_valid": (98, 100)}
_FIRST_TWO_HELD_OUT = {"inner_valid": (0, 1), "outer_valid": (1, 2), "train": (2, 100)}


@dataclasses.dataclass(frozen=True)
class PreparedSource:
    """A data set of TFDS.

    Attributes:
      name: comm_lopt's name of it, and of its folder.
      tfds_name: TFDS's name of it, with configuration and version.
      summary: one line for people.
      percents: train, inner_valid and outer_valid in percent of TFDS's "train".
      test_split: TFDS's name of the split that is "test".
      num_classes: number of labels; 0 for a text.
      image_shape: [S, S, C], or None for a text.
    """

    name: str
    tfds_name: str
    summary: str
    percents: Mapping[str, Percents]
    test_split: str = "test"
    num_classes: int = 0
    image_shape: tuple[int, int, int] | None = None

    def split_images(self, raw: Mapping[str, LabelledImages]) -> dict[str, LabelledImages]:
        """Divides TFDS's splits into `SPLITS`; disjoint, in order."""
        train = raw["train"]
        parts = percent_splits(len(train.labels), self.percents)
        return {
            **{name: train[part] for name, part in parts.items()},
            "test": raw[self.test_split],
        }


_SOURCES = (
    PreparedSource(
        "fashion_mnist",
        "fashion_mnist:3.0.1",
        "70,000 images 28x28x1 of clothes in 10 classes",
        _LAST_FIFTH_HELD_OUT,
        num_classes=10,
        image_shape=(28, 28, 1),
    ),
    PreparedSource(
        "cifar10",
        "cifar10:3.0.2",
        "60,000 images 32x32x3 in 10 classes",
        _LAST_FIFTH_HELD_OUT,
        num_classes=10,
        image_shape=(32, 32, 3),
    ),
    PreparedSource(
        "cifar100",
        "cifar100:3.0.2",
        "60,000 images 32x32x3 in 100 classes",
        _LAST_FIFTH_HELD_OUT,
        num_classes=100,
        image_shape=(32, 32, 3),
    ),
    PreparedSource(
        "imagenet32",
        "imagenet_resized/32x32:0.1.0",
        "1,331,167 images 32x32x3 in 1,000 classes",
        _LAST_FOUR_HELD_OUT,
        test_split="validation",
        num_classes=1000,
        image_shape=(32, 32, 3),
    ),
    PreparedSource(
        "imagenet64",
        "imagenet_resized/64x64:0.1.0",
        "1,331,167 images 64x64x3 in 1,000 classes",
        _LAST_FOUR_HELD_OUT,
        test_split="validation",
        num_classes=1000,
        image_shape=(64, 64, 3),
    ),
    PreparedSource(
        "lm1b",
        "lm1b:1.1.0",
        "the One Billion Word benchmark: 30 million English sentences, read as bytes",
        _FIRST_TWO_HELD_OUT,
    ),
)

PREPARED: Mapping[str, PreparedSource] = {source.name: source for source in _SOURCES}
"""By comm_lopt's name."""


def prepared_folder(source: PreparedSource, folder: Any = None) -> pathlib.Path:
    """Returns where the prepared data set is.

    Args:
      source: which.
      folder: its folder; None for `$COMM_LOPT_DATA/<name>`.

    Raises:
      FileNotFoundError: it is not there; says how to get it.
    """
    path = data_folder() / source.name if folder is None else pathlib.Path(folder)
    if not (path / "dataset.json").is_file():
        raise FileNotFoundError(
            f"{source.name} is not in {path}; install comm-lopt[tfds] and run `comm-lopt data "
            f"prepare {source.name}`, or set {DATA_VARIABLE} to the folder that holds the folder "
            f"{source.name}."
        )
    return path


def load_images(source: PreparedSource, folder: Any = None) -> dict[str, LabelledImages]:
    """Maps a prepared data set of images, divided into `SPLITS`.

    Raises:
      FileNotFoundError: it has not been prepared; says how to.
      DataError: its files are damaged or hold something else.
    """
    path = prepared_folder(source, folder)
    raw, _ = read_prepared(path)
    _require(path, raw, ("train", source.test_split), ("image", "label"))
    return source.split_images(
        {
            name: check_images(
                f"{path} ({name})",
                raw[name]["image"],
                raw[name]["label"],
                source.num_classes,
                source.image_shape,
            )
            for name in ("train", source.test_split)
        }
    )


def load_texts(source: PreparedSource, folder: Any = None) -> dict[str, Any]:
    """Maps a prepared text, uint8 [N] for each of `SPLITS`; sentences end with a line feed.

    Raises:
      FileNotFoundError: it has not been prepared; says how to.
      DataError: its files are damaged or hold something else.
    """
    path = prepared_folder(source, folder)
    raw, _ = read_prepared(path)
    _require(path, raw, ("train", source.test_split), ("text",))
    for name in ("train", source.test_split):
        text = raw[name]["text"]
        if text.dtype != np.uint8 or text.ndim != 1:
            raise DataError(
                f"{path} ({name}) has a text of type {text.dtype} and shape {list(text.shape)}; "
                "a text is uint8 [N]."
            )
    train = raw["train"]["text"]
    parts = percent_splits(len(train), source.percents)
    texts = {name: train[part] for name, part in parts.items()}
    return {**texts, "test": raw[source.test_split]["text"]}


def _require(
    path: pathlib.Path, raw: Mapping[str, Mapping], splits: tuple[str, ...], keys: tuple[str, ...]
) -> None:
    for split in splits:
        for key in keys:
            if key not in raw.get(split, {}):
                raise DataError(f"{path} lacks {key!r} of {split!r}; prepare the data anew.")
