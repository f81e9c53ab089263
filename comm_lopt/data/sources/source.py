"""What the registry knows of a source of data."""

from __future__ import annotations

import abc
import dataclasses

__all__ = ["BundledSource", "Source", "YourSource"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source(abc.ABC):
    """A source of data in the registry.

    Attributes:
      name: comm_lopt's name of it.
      summary: what it holds, in one line.
      configurable: the gin configurable that makes data sets of it.
      yours: the gin parameter that names a file or folder of the user's, or "".
    """

    name: str
    summary: str
    configurable: str
    yours: str = ""

    @abc.abstractmethod
    def find(self) -> str:
        """Returns where it is.

        Raises:
          FileNotFoundError: it is not here; says how to get it.
          DataError: what is there is damaged.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class BundledSource(Source):
    """A source that comes with an installed package.

    Attributes:
      where: the package, in words.
    """

    where: str

    def find(self) -> str:
        return self.where


@dataclasses.dataclass(frozen=True, kw_only=True)
class YourSource(Source):
    """A file or folder of the user's, which `yours` names."""

    def find(self) -> str:
        return f"where {self.yours} says"
