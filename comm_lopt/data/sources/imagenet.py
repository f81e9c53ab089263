"""ImageNet at 32×32 and 64×64 (TFDS's `imagenet_resized`), streamed."""

from __future__ import annotations

import gin

from comm_lopt.checks import require_choice
from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.sources.images import image_datasets
from comm_lopt.data.sources.prepared_source import PreparedSource, load_images

__all__ = ["IMAGENET32", "IMAGENET64", "imagenet_datasets"]


def _resized(size: int) -> PreparedSource:
    return PreparedSource(
        name=f"imagenet{size}",
        tfds_name=f"imagenet_resized/{size}x{size}:0.1.0",
        summary=f"1,331,167 images {size}x{size}x3 in 1,000 classes",
        configurable="imagenet_datasets",
        percents={"train": (0, 96), "inner_valid": (96, 98), "outer_valid": (98, 100)},
        test_split="validation",
        num_classes=1000,
        image_shape=(size, size, 3),
    )


IMAGENET32, IMAGENET64 = _resized(32), _resized(64)
_BY_NAME = {source.name: source for source in (IMAGENET32, IMAGENET64)}


@gin.configurable(module="comm_lopt")
def imagenet_datasets(
    image_size: int = 32,
    batch_size: int = 128,
    seed: int = 0,
    folder: str | None = None,
    resident: bool = False,
) -> ExampleDatasets:
    """ImageNet: uint8 images [N, S, S, 3] and int32 labels [N] in 0 to 999.

    Splits: of the 1,281,167 training images the first 96 % are train, the next 2 % inner_valid
    and the last 2 % outer_valid; the 50,000 validation images are test.

    Args:
      image_size: S, 32 or 64.
      batch_size: B.
      seed: seed of the order in which training draws the images.
      folder: of the prepared data; `$COMM_LOPT_DATA/imagenet32` (or 64) if None.
      resident: keep all of it on the device (4 GB at 32×32, 16 GB at 64×64) instead of
        streaming it from files.

    Raises:
      FileNotFoundError: it has not been prepared; says how to.
      DataError: its files are damaged.
      ValueError: another size, or B below 1.
    """
    source = _BY_NAME[require_choice("ImageNet", f"imagenet{image_size}", _BY_NAME)]
    splits = load_images(source, folder)
    return image_datasets(splits, source.num_classes, batch_size, seed, resident)
