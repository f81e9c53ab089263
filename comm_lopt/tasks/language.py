"""Language tasks: transformers and a recurrent network that predict a text's next byte."""

from __future__ import annotations

import gin

from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.sources.text import (
    lm1b_datasets,
    python_library_datasets,
    python_topics_datasets,
)
from comm_lopt.tasks.language_modelling import LanguageModellingTask
from comm_lopt.tasks.networks.gru import gru
from comm_lopt.tasks.networks.transformer import transformer
from comm_lopt.upstream import TaskFamily, single_task_to_family

__all__ = ["gru_lm", "lm1b_transformer", "transformer_lm"]


@gin.configurable(module="comm_lopt")
def transformer_lm(
    width: int = 32,
    num_layers: int = 2,
    num_heads: int = 4,
    length: int = 32,
    datasets: ExampleDatasets | None = None,
    name: str = "transformer_lm",
) -> TaskFamily:
    """A small transformer on the text behind Python's `help()` topics, or any other.

    For a file of your own bind `transformer_lm.datasets = @text_file_datasets()` and
    `text_file_datasets.path`.

    Args:
      width: size of a token.
      num_layers: number of blocks.
      num_heads: heads of each.
      length: L, bytes in a window.
      datasets: `python_topics_datasets(L)` with its other gin bindings if None.
      name: the task's name.
    """
    network = transformer(width, num_layers, num_heads)
    data = datasets or python_topics_datasets(length=length)
    return single_task_to_family(LanguageModellingTask(data, network, name))


@gin.configurable(module="comm_lopt")
def lm1b_transformer(
    width: int = 192,
    num_layers: int = 12,
    num_heads: int = 12,
    length: int = 16,
    datasets: ExampleDatasets | None = None,
) -> TaskFamily:
    """A transformer on LM1B (Joseph et al. 2025, generalisation to language).

    The paper's sizes are width 192, 12 layers, 12 heads, length 16 and width 32, 2 layers,
    4 heads, length 8. They read pieces of words there, and bytes here.

    Args:
      width: size of a token.
      num_layers: number of blocks.
      num_heads: heads of each.
      length: L, bytes in a window.
      datasets: `lm1b_datasets(L)` with its other gin bindings if None.
    """
    data = datasets or lm1b_datasets(length=length)
    return transformer_lm(
        width, num_layers, num_heads, length, data, name=f"lm1b_transformer{width}"
    )


@gin.configurable(module="comm_lopt")
def gru_lm(
    width: int = 32, length: int = 16, datasets: ExampleDatasets | None = None
) -> TaskFamily:
    """A recurrent network on the source of Python's standard library, or any other text.

    Args:
      width: size of a token and of the state.
      length: L, bytes in a window.
      datasets: `python_library_datasets(L)` with its other gin bindings if None.
    """
    data = datasets or python_library_datasets(length=length)
    return single_task_to_family(LanguageModellingTask(data, gru(width), "gru_lm"))
