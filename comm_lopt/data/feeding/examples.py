"""What a data set holds: labelled examples, or a text to take windows from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from comm_lopt.checks import require_at_least_one, require_choice
from comm_lopt.data.feeding.samplers import BatchSource, IndexSampler, WindowSampler

__all__ = ["SPLITS", "Examples", "LabelledExamples", "TextWindows"]

SPLITS = ("train", "inner_valid", "outer_valid", "test")

Arrays = Mapping[str, Any]


class Examples(Protocol):
    """Arrays by split, and how a batch is taken from them.

    Attributes:
      splits: for each of `SPLITS` arrays by key, [N, ...]; they may be memory-mapped files.
    """

    splits: Mapping[str, Mapping[str, np.ndarray]]

    def sampler(self, split: str, offset: int, batch_size: int, seed: int) -> BatchSource:
        """Draws positions in the arrays of a split, counted from `offset`."""
        ...

    def take(self, arrays: Arrays, positions: Any) -> dict[str, Any]:
        """Returns the examples at `positions` [...] of `arrays`: arrays [..., *example]."""
        ...

    def all_positions(self, split: str) -> range:
        """Positions that together show each part of a split once."""
        ...

    def rows_of(self, source: Any) -> np.ndarray:
        """Rows of a split's arrays from which what a source draws is taken.

        Args:
          source: what `sampler` made with offset 0, or a part of it.
        """
        ...


class LabelledExamples:
    """One row an example.

    Args:
      splits: for each of `SPLITS` the arrays of that split, [N, ...] each, same keys.

    Raises:
      ValueError: a split is missing or empty, or its arrays disagree in keys or length.
    """

    def __init__(self, splits: Mapping[str, Mapping[str, np.ndarray]]):
        for name in splits:
            require_choice("split", name, SPLITS)
        for name in SPLITS:
            if name not in splits or set(splits[name]) != set(splits["train"]):
                raise ValueError(
                    f"split {name!r} has {sorted(splits.get(name, {}))} and 'train' has "
                    f"{sorted(splits.get('train', {}))}: each of {', '.join(SPLITS)} needs "
                    "arrays under the same keys."
                )
            lengths = {key: len(array) for key, array in splits[name].items()}
            if len(set(lengths.values())) != 1:
                raise ValueError(
                    f"the arrays of split {name!r} have lengths {lengths}; each array needs one "
                    "row per example."
                )
            if not max(lengths.values()):
                raise ValueError(f"split {name!r} has no examples; pass more data.")
        self.splits = splits

    def sampler(self, split: str, offset: int, batch_size: int, seed: int) -> IndexSampler:
        """See `Examples`; held-out splits smaller than a batch are drawn whole."""
        size = self._size(split)
        size_of_batch = batch_size if split == "train" else min(batch_size, size)
        return IndexSampler(np.arange(offset, offset + size), size_of_batch, seed)

    def take(self, arrays: Arrays, positions: Any) -> dict[str, Any]:
        """Returns the rows at `positions` [...] of `arrays` [N, ...]: arrays [..., *example]."""
        return {key: array[positions] for key, array in arrays.items()}

    def all_positions(self, split: str) -> range:
        """0 to N − 1 of a split of N examples."""
        return range(self._size(split))

    def rows_of(self, source: IndexSampler) -> np.ndarray:
        """The rows that `source` draws: its indices, int32 [n]."""
        return source.indices

    def _size(self, split: str) -> int:
        return len(next(iter(self.splits[split].values())))


class TextWindows:
    """Windows of L + 1 bytes of a text: L to read, and the one after each to predict.

    Args:
      texts: for each of `SPLITS` its text, uint8 [N]; windows do not cross splits.
      length: L.

    Attributes:
      splits: for each of `SPLITS` {"text": uint8 [N]}.

    Raises:
      ValueError: a split has no window, or L below 1.
    """

    def __init__(self, texts: Mapping[str, np.ndarray], length: int):
        self.length = require_at_least_one("length", length, "bytes in a window")
        for name in SPLITS:
            if len(texts[name]) <= length:
                raise ValueError(
                    f"the text of split {name!r} has {len(texts[name])} bytes and a window has "
                    f"length={length} and one more; pass a longer text or a smaller length."
                )
        self.splits: Mapping[str, Mapping[str, np.ndarray]] = {
            name: {"text": texts[name]} for name in SPLITS
        }

    def sampler(self, split: str, offset: int, batch_size: int, seed: int) -> WindowSampler:
        """Positions where a window may begin, counted from `offset`."""
        stop = offset + len(self.splits[split]["text"]) - self.length
        return WindowSampler(offset, stop, batch_size, seed)

    def take(self, arrays: Arrays, positions: Any) -> dict[str, Any]:
        """Returns {"text": [..., L + 1]}."""
        window = np.arange(self.length + 1, dtype=np.int32)
        return {"text": arrays["text"][positions[..., None] + window.reshape(_ones(positions))]}

    def all_positions(self, split: str) -> range:
        """See `Examples`; bytes at the end that do not fill a window are not shown."""
        return range(0, len(self.splits[split]["text"]) - self.length, self.length)

    def rows_of(self, source: WindowSampler) -> np.ndarray:
        """The bytes of all windows that `source` draws: int32 [n + L], one stretch."""
        return np.arange(source.start, source.stop + self.length, dtype=np.int32)


def _ones(positions: Any) -> tuple[int, ...]:
    return (1,) * positions.ndim + (-1,)
