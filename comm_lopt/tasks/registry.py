"""Every task family by name. A new one is a new file and one entry here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from comm_lopt.checks import require_choice
from comm_lopt.data.sources.registry import SOURCES
from comm_lopt.tasks.cifar import cifar10_conv, cifar10_mlp, cifar100_conv, cifar100_mlp
from comm_lopt.tasks.digits import digits_mlp
from comm_lopt.tasks.fashion_mnist import (
    fashion_mnist_ae8,
    fashion_mnist_conv,
    fashion_mnist_mlp,
    fashion_mnist_mlp8,
    fashion_mnist_vit,
)
from comm_lopt.tasks.imagenet import (
    imagenet_conv,
    imagenet_deit,
    imagenet_mlp,
    imagenet_resnet,
)
from comm_lopt.tasks.language import gru_lm, lm1b_transformer, transformer_lm
from comm_lopt.tasks.sampled_mlp import sampled_mlp
from comm_lopt.upstream import TaskFamily

__all__ = ["TASKS", "TaskEntry", "task_entry"]


@dataclasses.dataclass(frozen=True)
class TaskEntry:
    """A task family in the registry, and the problem that its gin file makes of it.

    Attributes:
      function: builds the (inner) task family; its arguments are gin-configurable.
      data: the data sets, as `comm-lopt data` calls them, with ", " between.
      summary: the network.
      num_parameters: of the network as it ships.
      paper: where Joseph et al. 2025 use it, or "".
      arguments: of `function`, where they are not its defaults.
      batch_size: B.
      num_rounds: T.
      bindings: further lines of its gin file.
    """

    function: Callable[..., TaskFamily]
    data: str
    summary: str
    num_parameters: int
    paper: str = ""
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batch_size: int = 128
    num_rounds: int = 1000
    bindings: tuple[str, ...] = ()

    def make(self) -> TaskFamily:
        """The task family as it ships, but for what gin binds."""
        return self.function(**self.arguments)

    def gin_file(self) -> str:
        """The content of `tasks/<name>.gin`: the problem, with K and H of local_sgd.gin."""
        name = self.function.__name__
        sources = [SOURCES[source].configurable for source in self.data.split(", ")]
        lines = [
            "include 'local_sgd.gin'",
            f"inner_task_family = @{name}()",
            *(f"{name}.{argument} = {value!r}" for argument, value in self.arguments.items()),
            *(f"{source}.batch_size = {self.batch_size}" for source in sources),
            f"num_rounds = {self.num_rounds}",
            *self.bindings,
        ]
        return "\n".join(lines) + "\n"


_TRAINING = "meta-training and -testing"
_GENERALISATION = "generalisation"


def _imagenet(
    function: Callable[..., TaskFamily],
    image_size: int,
    summary: str,
    num_parameters: int,
    paper: str = "",
    **arguments: Any,
) -> TaskEntry:
    arguments["image_size"] = image_size
    data = f"imagenet{image_size}"
    return TaskEntry(function, data, summary, num_parameters, paper, arguments)


def _lm1b(
    width: int, num_layers: int, num_heads: int, length: int, num_parameters: int, paper: str = ""
) -> TaskEntry:
    layers = "1 layer" if num_layers == 1 else f"{num_layers} layers"
    return TaskEntry(
        lm1b_transformer,
        "lm1b",
        f"transformer: width {width}, {layers}, {num_heads} heads, length {length}",
        num_parameters,
        paper,
        {"width": width, "num_layers": num_layers, "num_heads": num_heads, "length": length},
    )


TASKS: Mapping[str, TaskEntry] = {
    # Those for a CPU have smaller batches and fewer rounds.
    "digits_mlp": TaskEntry(
        digits_mlp, "digits", "MLP 64-32-10", 2_410, batch_size=16, num_rounds=100
    ),
    "fashion_mnist_mlp": TaskEntry(
        fashion_mnist_mlp, "fashion_mnist", "MLP 784-128-128-10", 118_282, "figures 2 to 4"
    ),
    "fashion_mnist_mlp8": TaskEntry(
        fashion_mnist_mlp8,
        "fashion_mnist",
        "at 8x8, MLP 64-32-10",
        2_410,
        batch_size=64,
        num_rounds=200,
    ),
    "fashion_mnist_conv": TaskEntry(
        fashion_mnist_conv, "fashion_mnist", "convnet 32-64-64", 56_394
    ),
    "fashion_mnist_vit": TaskEntry(
        fashion_mnist_vit,
        "fashion_mnist",
        "vision transformer: width 32, 2 layers, 4 heads, 16 patches",
        27_978,
    ),
    "fashion_mnist_ae8": TaskEntry(
        fashion_mnist_ae8,
        "fashion_mnist",
        "at 8x8, autoencoder 64-32-8-32-64",
        4_744,
        batch_size=32,
        num_rounds=100,
    ),
    "sampled_mlp": TaskEntry(
        sampled_mlp,
        "digits, fashion_mnist",
        "at 8x8, MLP of sampled width and depth",
        17_290,
        batch_size=16,
        num_rounds=100,
        # Each task draws its own.
        bindings=("LocalSGDTaskFamily.local_learning_rate = (0.1, 1.0)",),
    ),
    "cifar10_conv": TaskEntry(cifar10_conv, "cifar10", "convnet 32-64-64", 56_970, _TRAINING),
    "cifar10_mlp": TaskEntry(cifar10_mlp, "cifar10", "MLP 3072-128-128-10", 411_146),
    "cifar100_conv": TaskEntry(cifar100_conv, "cifar100", "convnet 32-64-64", 62_820),
    "cifar100_mlp": TaskEntry(cifar100_mlp, "cifar100", "MLP 3072-128-128-100", 422_756),
    "imagenet32_mlp": _imagenet(imagenet_mlp, 32, "MLP 128-128-128", 555_368, _TRAINING),
    "imagenet32_conv": _imagenet(imagenet_conv, 32, "convnet 32-64-64", 121_320),
    "imagenet32_resnet18": _imagenet(
        imagenet_resnet, 32, "ResNet-18", 11_681_832, _GENERALISATION, depth=18
    ),
    "imagenet32_resnet50": _imagenet(
        imagenet_resnet, 32, "ResNet-50", 25_549_352, _GENERALISATION, depth=50
    ),
    "imagenet32_deit_tiny": _imagenet(imagenet_deit, 32, "DeiT-tiny", 5_553_832, width=192),
    "imagenet32_deit_small": _imagenet(imagenet_deit, 32, "DeiT-small", 21_723_496, width=384),
    "imagenet64_mlp": _imagenet(imagenet_mlp, 64, "MLP 128-128-128", 1_735_016, "meta-testing"),
    "imagenet64_conv": _imagenet(imagenet_conv, 64, "convnet 32-64-64", 121_320),
    "imagenet64_resnet18": _imagenet(
        imagenet_resnet, 64, "ResNet-18", 11_681_832, _GENERALISATION, depth=18
    ),
    "imagenet64_resnet50": _imagenet(
        imagenet_resnet, 64, "ResNet-50", 25_549_352, _GENERALISATION, depth=50
    ),
    "imagenet64_deit_tiny": _imagenet(
        imagenet_deit, 64, "DeiT-tiny", 5_581_480, _GENERALISATION, width=192
    ),
    "imagenet64_deit_small": _imagenet(
        imagenet_deit, 64, "DeiT-small", 21_778_792, _GENERALISATION, width=384
    ),
    "lm1b_transformer192": _lm1b(192, 12, 12, 16, 5_440_384, _GENERALISATION),
    "lm1b_transformer32": _lm1b(32, 2, 4, 8, 42_368, _GENERALISATION),
    "lm1b_transformer16": _lm1b(16, 1, 2, 8, 11_888),
    "gru_lm": TaskEntry(
        gru_lm,
        "python_library",
        "GRU: width 32, length 16",
        22_880,
        batch_size=32,
        num_rounds=100,
    ),
    "transformer_lm": TaskEntry(
        transformer_lm,
        "python_topics",
        "transformer: width 32, 2 layers, 4 heads, length 32",
        43_136,
        batch_size=32,
        num_rounds=200,
    ),
}
"""Every task family that ships, by its name in `comm-lopt tasks`."""


def task_entry(name: str) -> TaskEntry:
    """Returns the entry of a task.

    Raises:
      ValueError: no task of that name; the nearest known name is suggested.
    """
    return TASKS[require_choice("task", name, TASKS)]
