"""What a round's exchange takes on a link of a given speed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from comm_lopt.checks import require_range

__all__ = ["Link"]


@dataclasses.dataclass(frozen=True)
class Link:
    """A link between a worker and the others, of a speed in each direction.

    Attributes:
      mbps: megabits per second, 10⁶ bits.

    Raises:
      ValueError: a speed that is not above 0.
    """

    mbps: float

    def __post_init__(self) -> None:
        require_range("mbps", self.mbps, 0.0, exclude_low=True)

    def seconds(self, sent: int, received: int) -> float:
        """Seconds for so many bytes, both directions at once."""
        return 8 * max(sent, received) / (1e6 * self.mbps)

    def wait(
        self, sent: int, received: int, took: float, sleep: Callable[[float], None] = time.sleep
    ) -> float:
        """Waits for what an exchange that took so many seconds would take longer on this link.

        Returns:
          The seconds that it waited.
        """
        left = max(0.0, self.seconds(sent, received) - took)
        if left:
            sleep(left)
        return left
