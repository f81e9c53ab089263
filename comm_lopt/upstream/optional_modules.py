"""Lets upstream import without TensorFlow and the other libraries it names but seldom needs.

Upstream imports `tensorflow` and kin at the top of its modules and uses them in a few functions.
Where such a library is missing, an import *written in upstream's code* yields a stand-in: its
attributes can be named, annotated with and derived from, and it raises an `ImportError` that says
what to install the moment it is really used.

Why not a stand-in in `sys.modules`, or a finder on `sys.meta_path` that answers for `tensorflow`?
Because flax, tensorboardX, orbax and user code ask whether TensorFlow is there, and have to be
told the truth, before and after upstream asked. Python looks up the `import` statement's
`__import__` in the builtins of the module that the statement stands in. So each module of
upstream is given its own builtins, which differ from everyone's in `__import__` alone. Nothing is
put in `sys.modules`, an import inside a function works just like one at the top, and a library
that is installed is always the one that upstream gets. The same `__import__` shows upstream JAX
as `jax_view` has it.

`oryx` has no stand-in: upstream handles its absence by itself.
"""

from __future__ import annotations

import builtins
import importlib.machinery
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NoReturn

from comm_lopt.upstream.jax_view import as_upstream_sees
from comm_lopt.upstream.quiet import without_import_messages

__all__ = ["OPTIONAL_MODULES", "StandIn", "install_import_hook"]

_TFDS_EXTRA = 'pip install "comm-lopt[tfds]"'

OPTIONAL_MODULES: Mapping[str, str] = {
    "courier": "pip install dm-launchpad",
    "seqio": "pip install seqio",
    "tensorboard": _TFDS_EXTRA,
    "tensorflow": _TFDS_EXTRA,
    "tensorflow_datasets": _TFDS_EXTRA,
    "tensorflow_probability": "pip install tensorflow-probability",
}
"""What upstream can be imported without, and how to get it."""

# Third-party modules that upstream imports and that import an optional one. The list is explicit
# because upstream imports user code as well (`--gin_import`), whose failure must not be hidden.
_BUILT_ON_OPTIONAL = frozenset({"flax.metrics.tensorboard"})

_UPSTREAM = "learned_optimization"


class _Importing(threading.local):
    """How many modules of upstream this thread is in the middle of importing."""

    depth = 0


_importing = _Importing()


class StandIn:
    """Stands for a module that is not installed, or for anything reached through it.

    Attributes of a stand-in are stand-ins. Calling one raises `ImportError`, except while
    upstream is being imported: then a call is a decorator, or a setting of the absent library
    such as `tf.enable_v2_behavior()`, and there is nothing to decorate with or to set.
    """

    def __init__(self, name: str, missing: str) -> None:
        """Initialises.

        Args:
          name: what upstream asked for, dotted.
          missing: the module in `OPTIONAL_MODULES` whose absence is the cause.
        """
        self._name = name
        self._missing = missing

    def _raise(self) -> NoReturn:
        raise ImportError(
            f"upstream asked for {self._name}, but {self._missing} is not installed: "
            f"{OPTIONAL_MODULES[self._missing]}",
            name=self._missing,
        )

    def __getattr__(self, attribute: str) -> StandIn:
        # Protocols probe for special names (`__wrapped__`, `__array__` ...), and none applies.
        if attribute.startswith("__"):
            raise AttributeError(f"{self!r} has no attribute {attribute!r}")
        return StandIn(f"{self._name}.{attribute}", self._missing)

    def __call__(self, *args: Any, **kwargs: Any) -> StandIn:
        if _importing.depth:
            return StandIn(f"{self._name}(...)", self._missing)
        self._raise()

    def __getitem__(self, key: Any) -> StandIn:
        if _importing.depth:
            return StandIn(f"{self._name}[...]", self._missing)
        self._raise()

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        """Lets a class derive from a stand-in; making an instance of it raises."""
        stand_in = self

        def refuse(cls: type, *args: Any, **kwargs: Any) -> NoReturn:
            stand_in._raise()

        return (type(self._name.rpartition(".")[-1], (), {"__new__": refuse}),)

    def __instancecheck__(self, instance: Any) -> bool:
        return False  # Nothing is an instance of a class that is not there.

    def __enter__(self) -> NoReturn:
        self._raise()

    def __exit__(self, *unused: Any) -> None:
        """Only makes `with` reach `__enter__`, which raises."""

    def __iter__(self) -> Iterator[Any]:
        self._raise()

    def __repr__(self) -> str:
        return f"<{self._name}: {self._missing} is not installed>"


def _import(
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> Any:
    """The `__import__` of upstream's modules: views of JAX, and a stand-in if need be."""
    try:
        module = builtins.__import__(name, globals, locals, fromlist or (), level)
        return as_upstream_sees(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        # A library that is installed and lacks one of its modules says so itself. None is
        # Python's own way to block a module, and such a one is as good as not installed.
        absent = error.name == missing or sys.modules.get(missing, error) is None
        if level != 0 or missing not in OPTIONAL_MODULES or not absent:
            raise
        if name.partition(".")[0] == missing:
            # As with any import, `import a.b` yields `a`, and `from a.b import c` yields `a.b`.
            return StandIn(name if fromlist else missing, missing)
        if any(f"{name}.{item}" in _BUILT_ON_OPTIONAL for item in fromlist or ()):
            return StandIn(name, missing)
        raise


class _UpstreamLoader(importlib.machinery.SourceFileLoader):
    """Loads a module of upstream with an `__import__` of its own."""

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": _import}
        _importing.depth += 1
        try:
            with without_import_messages():
                super().exec_module(module)
        finally:
            _importing.depth -= 1


class _UpstreamFinder:
    """Finds upstream's modules where everyone else finds them, and swaps their loader."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != _UPSTREAM:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                loader = spec.loader
                # Other loaders (of an archive, of pytest) have their own ways; leave them alone.
                if type(loader) is importlib.machinery.SourceFileLoader:
                    spec.loader = _UpstreamLoader(loader.name, loader.path)
                return spec
        return None


def install_import_hook() -> None:
    """Makes modules of upstream importable on today's JAX and without TensorFlow.

    Modules of upstream that were imported before are shown the views of JAX too. Safe to call
    again; the second call does nothing.
    """
    if any(isinstance(finder, _UpstreamFinder) for finder in sys.meta_path):
        return
    # First, because the ordinary finder also finds upstream. It answers for nothing else.
    sys.meta_path.insert(0, _UpstreamFinder())
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == _UPSTREAM and module is not None:
            names = vars(module)
            names.update({key: as_upstream_sees(value) for key, value in names.items()})
