"""Where training stands in its data, so that a resumed run goes on with the next batch."""

from __future__ import annotations

from collections.abc import Mapping

from comm_lopt.data.device import SPLITS, IndexSampler
from comm_lopt.data.rounds import RoundIterator
from comm_lopt.upstream import Datasets

__all__ = ["positions", "restore_positions"]


def positions(datasets: Datasets | None) -> dict[str, int]:
    """Returns the number of batches drawn from each split whose order can be replayed.

    Splits of device-resident data can; other iterators (streams) have no position to save.
    """
    return {name: sampler.state for name, sampler in _samplers(datasets).items()}


def restore_positions(datasets: Datasets | None, saved: Mapping[str, int]) -> None:
    """Moves the splits of `datasets` to where `positions` found them."""
    for name, sampler in _samplers(datasets).items():
        sampler.state = saved[name]


def _samplers(datasets: Datasets | None) -> dict[str, IndexSampler]:
    found: dict[str, IndexSampler] = {}
    if datasets is None:
        return found
    for name in SPLITS:
        source = datasets.split(name)
        if isinstance(source, RoundIterator):
            source = source.source
        if isinstance(source, IndexSampler):
            found[name] = source
    return found
