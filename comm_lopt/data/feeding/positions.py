"""Where training stands in its data, so that a resumed run goes on with the next round."""

from __future__ import annotations

from collections.abc import Mapping

from comm_lopt.data.feeding.examples import SPLITS
from comm_lopt.data.feeding.rounds import RoundIterator
from comm_lopt.upstream import Datasets

__all__ = ["close", "part_sizes", "positions", "reseed", "restore_positions"]


def positions(datasets: Datasets | None) -> dict[str, int]:
    """Returns the number of rounds drawn from each split whose order can be replayed.

    Those of comm_lopt's data sets can; upstream's own iterators have no position to save.
    """
    return {name: rounds.state for name, rounds in _rounds(datasets).items()}


def restore_positions(datasets: Datasets | None, saved: Mapping[str, int]) -> None:
    """Moves the splits of `datasets` to where `positions` found them."""
    for name, rounds in _rounds(datasets).items():
        rounds.state = saved[name]


def reseed(datasets: Datasets | None, run_seed: int, number: int) -> None:
    """Makes every split begin anew, in an order of this run's and estimator's own.

    Args:
      datasets: changed in place.
      run_seed: the run's seed; the data sets' own seed decides beside it.
      number: of the estimator in the run.

    Raises:
      ValueError: a seed below 0.
    """
    for name, rounds in _rounds(datasets).items():
        rounds.close()
        setattr(datasets, name, rounds.reseeded(run_seed, number))


def close(datasets: Datasets | None) -> None:
    """Ends the threads that read ahead; the next round that is drawn starts another."""
    for rounds in _rounds(datasets).values():
        rounds.close()


def part_sizes(datasets: Datasets | None) -> list[int] | None:
    """Number of training examples of each worker; None if all draw from all of them."""
    rounds = _rounds(datasets).get("train")
    return None if rounds is None else rounds.part_sizes()


def _rounds(datasets: Datasets | None) -> dict[str, RoundIterator]:
    if datasets is None:
        return {}
    splits = {name: datasets.split(name) for name in SPLITS}
    return {
        name: rounds
        for name, rounds in splits.items()
        if isinstance(rounds, RoundIterator) and rounds.can_seek
    }
