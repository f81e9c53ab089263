"""What comes next is made in a thread while what came before is used."""

from __future__ import annotations

import collections
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import jax

__all__ = ["ReadAhead"]

PyTree = Any

_FEWEST_AHEAD, _MOST_AHEAD, _BYTES_AHEAD = 2, 1024, 1 << 30


class ReadAhead(Iterator[Any]):
    """Makes items in a thread before they are asked for.

    As many items wait as were taken so far, so that a burst of them (a meta-step asks for all its
    rounds at once) finds as many as the one before it; at least 2, at most 1024, and about a
    gigabyte of them. The thread ends with this object, or when it is closed.

    Args:
      make: makes item i; depends on nothing but i, and does not hold this object.

    Attributes:
      close: ends the thread; there are no items afterwards.
    """

    def __init__(self, make: Callable[[int], PyTree]):
        self._next = self._taken = 0
        self._most = _FEWEST_AHEAD
        self._waiting: collections.deque[Future] = collections.deque()
        self._asked: queue.SimpleQueue[tuple[int, Future] | None] = queue.SimpleQueue()
        # A thread is enough: what it does is copy memory and wait for the disk. It holds
        # nothing of this object, which could not end otherwise.
        threading.Thread(
            target=_work, args=(make, self._asked), name="read-ahead", daemon=True
        ).start()
        self.close = weakref.finalize(self, _end, self._waiting, self._asked)

    def seek(self, number: int) -> None:
        """Makes `number` the next item."""
        if number != self._next:
            _cancel(self._waiting)
            self._next = number

    def __next__(self) -> PyTree:
        if not self.close.alive:
            raise StopIteration
        wanted = max(_FEWEST_AHEAD, min(self._taken, self._most))
        while len(self._waiting) < wanted:
            future: Future = Future()
            self._asked.put((self._next + len(self._waiting), future))
            self._waiting.append(future)
        future = self._waiting.popleft()
        self._next += 1
        self._taken += 1
        item = future.result()
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(item))
        self._most = min(_MOST_AHEAD, _BYTES_AHEAD // max(size, 1))
        return item


def _work(make: Callable[[int], PyTree], asked: queue.SimpleQueue) -> None:
    while (order := asked.get()) is not None:
        number, future = order
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(make(number))
            except BaseException as error:  # Who asks for the item gets it.
                future.set_exception(error)
        del order, future


def _end(waiting: collections.deque[Future], asked: queue.SimpleQueue) -> None:
    _cancel(waiting)
    asked.put(None)


def _cancel(waiting: collections.deque[Future]) -> None:
    while waiting:
        waiting.pop().cancel()
