"""Where the processes of a run leave short texts for each other, without waiting."""

from __future__ import annotations

from typing import Any, Protocol

import jax

__all__ = ["Board", "shared_board"]


class Board(Protocol):
    """Where processes leave short texts for each other."""

    def post(self, name: str, text: str) -> None:
        """Leaves a text."""

    def read(self, name: str) -> str | None:
        """The text, or None where there is none yet."""

    def remove(self, name: str) -> None:
        """Takes it away."""


class _Coordinator:
    """The key-value store of JAX's coordinator."""

    def __init__(self, client: Any):
        self._client = client

    def post(self, name: str, text: str) -> None:
        self._client.key_value_set(name, text, allow_overwrite=True)

    def read(self, name: str) -> str | None:
        try:
            return str(self._client.key_value_try_get(name))
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
            return None

    def remove(self, name: str) -> None:
        self._client.key_value_delete(name)


def shared_board() -> Board | None:
    """That of all processes of the run; None in a process that is alone."""
    from jax._src import distributed

    client = distributed.global_state.client
    return None if client is None or jax.process_count() == 1 else _Coordinator(client)
