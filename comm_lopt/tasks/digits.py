"""Tasks on scikit-learn's handwritten digits."""

from __future__ import annotations

from collections.abc import Sequence

import gin

from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.sources.digits import digits_datasets
from comm_lopt.tasks.image_classification import image_family
from comm_lopt.tasks.networks.mlp import mlp
from comm_lopt.upstream import TaskFamily

__all__ = ["digits_mlp"]


@gin.configurable(module="comm_lopt")
def digits_mlp(
    hidden_sizes: Sequence[int] = (32,), datasets: ExampleDatasets | None = None
) -> TaskFamily:
    """An MLP 64-32-10 on the 8×8 digits.

    Args:
      hidden_sizes: widths of the hidden layers.
      datasets: `digits_datasets()` with its gin bindings if None.
    """
    return image_family("digits_mlp", datasets or digits_datasets(), mlp(hidden_sizes))
