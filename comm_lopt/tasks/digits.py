"""Tasks on scikit-learn's handwritten digits."""

from __future__ import annotations

from collections.abc import Sequence

import gin

from comm_lopt.data.device import DeviceDatasets
from comm_lopt.data.digits import digits_datasets
from comm_lopt.tasks.image_classification import ImageClassificationTask
from comm_lopt.tasks.networks import mlp
from comm_lopt.upstream import TaskFamily, single_task_to_family

__all__ = ["digits_mlp"]


@gin.configurable(module="comm_lopt")
def digits_mlp(
    hidden_sizes: Sequence[int] = (32,), datasets: DeviceDatasets | None = None
) -> TaskFamily:
    """An MLP 64-32-10 on the 8×8 digits.

    Args:
      hidden_sizes: widths of the hidden layers.
      datasets: `digits_datasets()` with its gin bindings if None.
    """
    task = ImageClassificationTask(datasets or digits_datasets(), mlp(hidden_sizes), "digits_mlp")
    return single_task_to_family(task)
