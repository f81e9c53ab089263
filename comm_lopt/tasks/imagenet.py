"""Tasks on ImageNet at 32×32 and 64×64 pixels: the size is an argument of each."""

from __future__ import annotations

from collections.abc import Sequence

import gin

from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.sources.imagenet import imagenet_datasets
from comm_lopt.tasks.image_classification import image_family
from comm_lopt.tasks.networks.convnet import convnet
from comm_lopt.tasks.networks.mlp import mlp
from comm_lopt.tasks.networks.resnet import resnet
from comm_lopt.tasks.networks.vit import vit
from comm_lopt.tasks.supervised import Network
from comm_lopt.upstream import TaskFamily

__all__ = ["imagenet_conv", "imagenet_deit", "imagenet_mlp", "imagenet_resnet"]

_DEIT_HEADS = {192: 3, 384: 6}
_DEIT_LAYERS = 12
# A patch of 16 pixels at DeiT's own 224 would leave 4 or 16 patches here. This leaves 64.
_PATCHES_ALONG_A_SIDE = 8


@gin.configurable(module="comm_lopt")
def imagenet_mlp(
    image_size: int = 32,
    hidden_sizes: Sequence[int] = (128, 128, 128),
    datasets: ExampleDatasets | None = None,
) -> TaskFamily:
    """An MLP 128-128-128 (Joseph et al. 2025).

    Args:
      image_size: S.
      hidden_sizes: widths of the hidden layers.
      datasets: `imagenet_datasets(S)` with its other gin bindings if None.
    """
    return _family("mlp", image_size, mlp(hidden_sizes), datasets)


@gin.configurable(module="comm_lopt")
def imagenet_conv(
    image_size: int = 32,
    channels: Sequence[int] = (32, 64, 64),
    datasets: ExampleDatasets | None = None,
) -> TaskFamily:
    """A convnet 32-64-64.

    Args:
      image_size: S.
      channels: channels of each convolution.
      datasets: `imagenet_datasets(S)` with its other gin bindings if None.
    """
    return _family("conv", image_size, convnet(channels), datasets)


@gin.configurable(module="comm_lopt")
def imagenet_resnet(
    depth: int = 18, image_size: int = 32, datasets: ExampleDatasets | None = None
) -> TaskFamily:
    """ResNet-18 or ResNet-50 with BatchNorm (Joseph et al. 2025, generalisation).

    At up to 64 pixels it begins with a 3×3 convolution of stride 1 and does not pool.

    Args:
      depth: 18 or 50.
      image_size: S.
      datasets: `imagenet_datasets(S)` with its other gin bindings if None.
    """
    return _family(f"resnet{depth}", image_size, resnet(depth, image_size <= 64), datasets)


@gin.configurable(module="comm_lopt")
def imagenet_deit(
    width: int = 192,
    image_size: int = 64,
    num_layers: int = _DEIT_LAYERS,
    patch_size: int | None = None,
    datasets: ExampleDatasets | None = None,
) -> TaskFamily:
    """DeiT-tiny (width 192) or DeiT-small (width 384) (Joseph et al. 2025, generalisation).

    Args:
      width: size of a token; one head for each 64.
      image_size: S.
      num_layers: number of blocks.
      patch_size: pixels along a side of a patch; S / 8 if None, which makes 64 patches.
      datasets: `imagenet_datasets(S)` with its other gin bindings if None.
    """
    heads = _DEIT_HEADS.get(width, max(1, width // 64))
    patch = patch_size or max(1, image_size // _PATCHES_ALONG_A_SIDE)
    kind = {192: "deit_tiny", 384: "deit_small"}.get(width, f"deit{width}")
    return _family(kind, image_size, vit(width, num_layers, heads, patch), datasets)


def _family(
    kind: str, image_size: int, network: Network, datasets: ExampleDatasets | None
) -> TaskFamily:
    data = datasets or imagenet_datasets(image_size)
    return image_family(f"imagenet{image_size}_{kind}", data, network)
