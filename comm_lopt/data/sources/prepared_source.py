"""Sources that `comm-lopt data prepare NAME` brings here from TensorFlow Datasets.

They then lie in comm_lopt's own folders, and reading them needs no TensorFlow.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from comm_lopt.data.sources.folder import DATA_VARIABLE, DataError, data_folder, user_path
from comm_lopt.data.sources.images import LabelledImages, check_images
from comm_lopt.data.sources.prepared import read_prepared
from comm_lopt.data.sources.source import Source
from comm_lopt.data.sources.splits import Percents, percent_splits

__all__ = ["PreparedSource", "load_images", "load_texts", "prepared_folder"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedSource(Source):
    """A data set of TFDS.

    Attributes:
      name: comm_lopt's name of it, and of its folder.
      tfds_name: TFDS's name of it, with configuration and version.
      percents: train, inner_valid and outer_valid in percent of TFDS's "train".
      test_split: TFDS's name of the split that is "test".
      num_classes: number of labels; 0 for a text.
      image_shape: [S, S, C], or None for a text.
    """

    tfds_name: str
    percents: Percents
    test_split: str = "test"
    num_classes: int = 0
    image_shape: tuple[int, int, int] | None = None

    def find(self) -> str:
        folder = prepared_folder(self)
        read_prepared(folder)
        return str(folder)

    def split_images(self, raw: Mapping[str, LabelledImages]) -> dict[str, LabelledImages]:
        """Divides TFDS's splits into `SPLITS`; disjoint, in order."""
        train = raw["train"]
        parts = percent_splits(len(train.labels), self.percents)
        return {
            **{name: train[part] for name, part in parts.items()},
            "test": raw[self.test_split],
        }


def prepared_folder(source: PreparedSource, folder: Any = None) -> pathlib.Path:
    """Returns where the prepared data set is.

    Args:
      source: which.
      folder: its folder; None for `$COMM_LOPT_DATA/<name>`.

    Raises:
      FileNotFoundError: it is not there; says how to get it.
    """
    path = data_folder() / source.name if folder is None else user_path(folder)
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
