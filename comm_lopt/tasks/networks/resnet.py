"""Residual networks with BatchNorm: upstream's, in two standard sizes."""

from __future__ import annotations

import jax

from comm_lopt.checks import require_choice
from comm_lopt.tasks.supervised import Network
from comm_lopt.upstream import ResNet

__all__ = ["resnet"]

_DEPTHS = (18, 50)


def resnet(depth: int, small_images: bool) -> Network:
    """ResNet-18 or ResNet-50 (He et al. 2016, version 1), with BatchNorm in its model state.

    Args:
      depth: 18 (basic blocks, channels 64 to 512) or 50 (bottlenecks, channels 256 to 2048).
      small_images: begin with a 3×3 convolution of stride 1 and no pooling, as usual at 32×32,
        instead of a 7×7 convolution of stride 2 and pooling.

    Returns:
      A network from images [B, S, S, C] to logits [B, classes].

    Raises:
      ValueError: another depth.
    """
    require_choice("ResNet depth", str(depth), map(str, _DEPTHS))
    start = {"initial_conv_kernel_size": 3, "initial_conv_stride": 1, "max_pool": False}

    def network(images: jax.Array, num_classes: int, is_training: bool) -> jax.Array:
        net = ResNet(
            num_classes=num_classes, **ResNet.CONFIGS[depth], **(start if small_images else {})
        )
        return net(images, is_training=is_training)

    return network
