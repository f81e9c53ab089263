"""Every task family by name. A new one is a new file and one entry here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

from comm_lopt.checks import require_choice
from comm_lopt.tasks.cifar import cifar10_conv, cifar10_mlp, cifar100_conv, cifar100_mlp
from comm_lopt.tasks.digits import digits_mlp
from comm_lopt.tasks.fashion_mnist import (
    fashion_mnist_conv,
    fashion_mnist_mlp,
    fashion_mnist_mlp8,
)
from comm_lopt.tasks.imagenet import (
    imagenet_conv,
    imagenet_deit,
    imagenet_mlp,
    imagenet_resnet,
)
from comm_lopt.tasks.language import lm1b_transformer, transformer_lm
from comm_lopt.tasks.sampled_mlp import sampled_mlp
from comm_lopt.upstream import TaskFamily

__all__ = ["TASKS", "TaskEntry", "task_entry"]


@dataclasses.dataclass(frozen=True)
class TaskEntry:
    """A task family in the registry.

    Attributes:
      make: builds the (inner) task family; its arguments are gin-configurable.
      data: the data set, as `comm-lopt data` calls it.
      summary: the network.
      num_parameters: of the network as it ships.
      paper: where Joseph et al. 2025 use it, or "".
    """

    make: Callable[..., TaskFamily]
    data: str
    summary: str
    num_parameters: int
    paper: str = ""


_TRAINING = "meta-training and -testing"
_GENERALISATION = "generalisation"

TASKS: Mapping[str, TaskEntry] = {
    "digits_mlp": TaskEntry(digits_mlp, "digits", "MLP 64-32-10", 2_410),
    "fashion_mnist_mlp": TaskEntry(
        fashion_mnist_mlp, "fashion_mnist", "MLP 784-128-128-10", 118_282, "figures 2 to 4"
    ),
    "fashion_mnist_mlp8": TaskEntry(
        fashion_mnist_mlp8, "fashion_mnist", "at 8x8, MLP 64-32-10", 2_410
    ),
    "fashion_mnist_conv": TaskEntry(
        fashion_mnist_conv, "fashion_mnist", "convnet 32-64-64", 56_394
    ),
    "sampled_mlp": TaskEntry(
        sampled_mlp, "digits, fashion_mnist", "at 8x8, MLP of sampled width and depth", 17_290
    ),
    "cifar10_conv": TaskEntry(cifar10_conv, "cifar10", "convnet 32-64-64", 56_970, _TRAINING),
    "cifar10_mlp": TaskEntry(cifar10_mlp, "cifar10", "MLP 3072-128-128-10", 411_146),
    "cifar100_conv": TaskEntry(cifar100_conv, "cifar100", "convnet 32-64-64", 62_820),
    "cifar100_mlp": TaskEntry(cifar100_mlp, "cifar100", "MLP 3072-128-128-100", 422_756),
    "imagenet32_mlp": TaskEntry(
        functools.partial(imagenet_mlp, 32),
        "imagenet32",
        "MLP 128-128-128",
        555_368,
        _TRAINING,
    ),
    "imagenet32_conv": TaskEntry(
        functools.partial(imagenet_conv, 32), "imagenet32", "convnet 32-64-64", 121_320
    ),
    "imagenet32_resnet18": TaskEntry(
        functools.partial(imagenet_resnet, 18, 32),
        "imagenet32",
        "ResNet-18",
        11_681_832,
        _GENERALISATION,
    ),
    "imagenet32_resnet50": TaskEntry(
        functools.partial(imagenet_resnet, 50, 32),
        "imagenet32",
        "ResNet-50",
        25_549_352,
        _GENERALISATION,
    ),
    "imagenet32_deit_tiny": TaskEntry(
        functools.partial(imagenet_deit, 192, 32), "imagenet32", "DeiT-tiny", 5_553_832
    ),
    "imagenet32_deit_small": TaskEntry(
        functools.partial(imagenet_deit, 384, 32), "imagenet32", "DeiT-small", 21_723_496
    ),
    "imagenet64_mlp": TaskEntry(
        functools.partial(imagenet_mlp, 64),
        "imagenet64",
        "MLP 128-128-128",
        1_735_016,
        "meta-testing",
    ),
    "imagenet64_conv": TaskEntry(
        functools.partial(imagenet_conv, 64), "imagenet64", "convnet 32-64-64", 121_320
    ),
    "imagenet64_resnet18": TaskEntry(
        functools.partial(imagenet_resnet, 18, 64),
        "imagenet64",
        "ResNet-18",
        11_681_832,
        _GENERALISATION,
    ),
    "imagenet64_resnet50": TaskEntry(
        functools.partial(imagenet_resnet, 50, 64),
        "imagenet64",
        "ResNet-50",
        25_549_352,
        _GENERALISATION,
    ),
    "imagenet64_deit_tiny": TaskEntry(
        functools.partial(imagenet_deit, 192, 64),
        "imagenet64",
        "DeiT-tiny",
        5_581_480,
        _GENERALISATION,
    ),
    "imagenet64_deit_small": TaskEntry(
        functools.partial(imagenet_deit, 384, 64),
        "imagenet64",
        "DeiT-small",
        21_778_792,
        _GENERALISATION,
    ),
    "lm1b_transformer192": TaskEntry(
        lm1b_transformer,
        "lm1b",
        "transformer: width 192, 12 layers, 12 heads, length 16",
        5_440_384,
        _GENERALISATION,
    ),
    "lm1b_transformer32": TaskEntry(
        functools.partial(lm1b_transformer, 32, 2, 4, 8),
        "lm1b",
        "transformer: width 32, 2 layers, 4 heads, length 8",
        42_368,
        _GENERALISATION,
    ),
    "lm1b_transformer16": TaskEntry(
        functools.partial(lm1b_transformer, 16, 1, 2, 8),
        "lm1b",
        "transformer: width 16, 1 layer, 2 heads, length 8",
        11_888,
    ),
    "transformer_lm": TaskEntry(
        transformer_lm,
        "python_topics",
        "transformer: width 32, 2 layers, 4 heads, length 32",
        43_136,
    ),
}


def task_entry(name: str) -> TaskEntry:
    """Returns the entry of a task.

    Raises:
      ValueError: no task of that name; the nearest known name is suggested.
    """
    return TASKS[require_choice("task", name, TASKS)]
