"""How far a run has come: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

__all__ = ["ProgressDisplay"]

_SECONDS_BETWEEN_LINES = 10.0
_LINE = "{n_fmt} of {total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class ProgressDisplay:
    """Shows meta-steps, or rounds, on stderr.

    Args:
      done: meta-steps of earlier processes.
      total: meta-steps of the whole run.
      shown: whether to show them.
      command: what is running.
      unit: what is counted.
    """

    def __init__(
        self,
        done: int,
        total: int,
        shown: bool,
        command: str = "meta-train",
        unit: str = "meta-step",
    ):
        self.shown = shown
        terminal = sys.stderr.isatty()
        self._command, self._unit = command, unit
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=unit,
            desc=command,
            disable=not (shown and terminal),
            mininterval=1.0,
        )
        self._lines = shown and not terminal
        self._first, self._step, self._total = done, done, total
        self._begin = time.monotonic()
        self._printed_at = -_SECONDS_BETWEEN_LINES
        self._printed_step = done
        self._values = ""

    def update(self, values: str) -> None:
        """One more meta-step, with these values of it."""
        self._step += 1
        self._values = values
        self._bar.set_postfix_str(values, refresh=False)
        self._bar.update()
        if self._lines and time.monotonic() - self._printed_at >= _SECONDS_BETWEEN_LINES:
            self._print_line()

    def tell(self, message: str) -> None:
        """A line of its own, above the bar, whether meta-steps are shown or not."""
        self._bar.write(message, file=sys.stderr)

    def close(self) -> None:
        """Shows the last meta-step, and ends the bar."""
        if self._lines and self._step != self._printed_step:
            self._print_line()
        self._bar.close()

    def _print_line(self) -> None:
        self._printed_at, self._printed_step = time.monotonic(), self._step
        line = tqdm.format_meter(
            self._step,
            self._total,
            self._printed_at - self._begin,
            unit=self._unit,
            initial=self._first,
            postfix=self._values,
            bar_format=f"{self._command}: {self._unit} {_LINE}",
        )
        print(line, file=sys.stderr, flush=True)
