"""Prepares this process for upstream. Imported before anything of `learned_optimization` is."""

from __future__ import annotations

from comm_lopt.upstream.locate import Flavour, locate
from comm_lopt.upstream.optional_modules import install_import_hook
from comm_lopt.upstream.quiet import without_int64_warnings

__all__ = ["FLAVOUR", "VERSION"]

_UPSTREAM = locate()

FLAVOUR: Flavour = _UPSTREAM.flavour
"""Which shape upstream has: "released" (0.0.1) or "main" (the main branch)."""

VERSION: str = _UPSTREAM.version
"""Which upstream this is, for reports: "0.0.1", or "main-" and the short commit."""

install_import_hook()
without_int64_warnings()
