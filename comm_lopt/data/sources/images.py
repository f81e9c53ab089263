"""Labelled images: checks, and the data sets made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.examples import LabelledExamples
from comm_lopt.data.feeding.streams import StreamDatasets
from comm_lopt.data.sources.folder import DataError

__all__ = ["LabelledImages", "check_images", "image_datasets"]


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """Images and labels of one file or split.

    Attributes:
      images: uint8 [N, S, S, C]; may be a memory-mapped file.
      labels: int32 [N].
    """

    images: np.ndarray
    labels: np.ndarray

    def __getitem__(self, part: slice) -> LabelledImages:
        return LabelledImages(self.images[part], self.labels[part])


def check_images(
    where: Any,
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int | None = None,
    image_shape: tuple[int, ...] | None = None,
) -> LabelledImages:
    """Checks images and labels that were read from somewhere.

    Args:
      where: file or folder, for the messages.
      images: uint8 [N, S, S] or [N, S, S, C].
      labels: integers [N] (or [N, 1]).
      num_classes: labels lie in 0 to num_classes − 1; None takes any from 0 on.
      image_shape: [S, S, C]; None takes any.

    Raises:
      DataError: they are not that.
    """
    shape = images.shape
    square = images.ndim in (3, 4) and shape[1] == shape[2] and 0 not in shape[1:]
    if images.dtype != np.uint8 or not square:
        raise DataError(
            f"{where} has images of type {images.dtype} and shape {list(shape)}; images "
            "are uint8 [N, S, S] or [N, S, S, C]."
        )
    if images.ndim == 3:
        images = images[..., None]
    if image_shape is not None and images.shape[1:] != image_shape:
        raise DataError(
            f"{where} has images of {list(images.shape[1:])} and here they are "
            f"{list(image_shape)}; pass images of that size."
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        raise DataError(
            f"{where} has labels of type {labels.dtype} and shape {list(labels.shape)} beside "
            f"{len(images)} images; there is one label, an integer, an image."
        )
    if labels.size:
        smallest, largest = int(labels.min()), int(labels.max())
        top = np.iinfo(np.int32).max if num_classes is None else num_classes - 1
        if smallest < 0 or largest > top:
            wrong = smallest if smallest < 0 else largest
            raise DataError(f"{where} has the label {wrong}; labels lie in 0 to {top}.")
    return LabelledImages(images, labels.astype(np.int32))


def image_datasets(
    splits: Mapping[str, LabelledImages],
    num_classes: int,
    batch_size: int,
    seed: int,
    resident: bool = True,
    largest_value: int = 255,
) -> ExampleDatasets:
    """Returns data sets of labelled images.

    Args:
      splits: for each of `SPLITS` its images and labels.
      num_classes: number of classes.
      batch_size: B.
      seed: seed of the order in which training draws the images.
      resident: keep the images on the device; otherwise batches are read on the host.
      largest_value: grey value that stands for 1.

    Raises:
      ValueError: B below 1 or above the number of training images.
    """
    examples = LabelledExamples(
        {name: {"image": split.images, "label": split.labels} for name, split in splits.items()}
    )
    extra_info = {"num_classes": num_classes, "largest_value": largest_value}
    kind = DeviceDatasets if resident else StreamDatasets
    return kind(examples, batch_size, seed, extra_info)
