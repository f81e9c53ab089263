"""Gin files: which file a name means, and errors that suggest the nearest name."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import pathlib
import posixpath
import re
import tokenize
import traceback
from collections.abc import Iterator, Sequence
from typing import TextIO, cast

import gin

from comm_lopt import gin_state
from comm_lopt.checks import nearest_name
from comm_lopt.tasks.registry import TASKS, TaskEntry
from comm_lopt.upstream import GIN_DIR as UPSTREAM_GIN_DIR

__all__ = ["GIN_DIR", "ConfigError", "load_config", "shipped_gin_files"]


class ConfigError(ValueError):
    """A gin file, name or binding that cannot be used."""


def _find_gin_dir() -> pathlib.Path:
    # In a checkout the files stand beside the package, in an installed wheel inside it.
    package = pathlib.Path(__file__).resolve().parent
    candidates = (package / "gin_files", package.parent / "gin")
    return next((folder for folder in candidates if folder.is_dir()), candidates[0])


GIN_DIR: pathlib.Path = _find_gin_dir()
"""Folder of the gin files that ship, but for `tasks/<name>.gin`: these are made of `TASKS`."""


def shipped_gin_files() -> list[str]:
    """Names of the gin files that ship, such as "tasks/digits_mlp.gin"."""
    return sorted(_shipped())


def load_config(
    config_files: Sequence[str], bindings: Sequence[str] = (), imports: Sequence[str] = ()
) -> None:
    """Replaces gin's configuration by what the files and bindings say.

    A name that ships (see `shipped_gin_files`) means the file that ships. Any other is a path,
    from the folder of the file that includes it or from the current one; so `./local_sgd.gin` is
    one's own.

    Gin files can import Python modules, and doing so runs them: load only files you trust.

    Args:
      config_files: paths, or names of shipped files.
      bindings: such as "LOptA.hidden_size = 16"; they win over the files.
      imports: modules to import first, such as those with one's own configurables.

    Raises:
      ConfigError: a file, module, name or parameter that is not there, a macro that nothing uses
        or that has no value, a module that fails, or bad syntax.
    """
    gin.clear_config()
    files = _Files()
    try:
        for module in imports:
            importlib.import_module(module)
        with gin_state.reading_first_with(files.open, files.has):
            gin.parse_config_files_and_bindings(
                list(config_files), list(bindings), finalize_config=False
            )
        _check_macros()
        _check_parameters()
        gin.finalize()
    except ConfigError:
        raise
    except Exception as error:
        told = _told(error, files.missing)
        if told is None:
            raise
        raise ConfigError(told) from error


class _Files:
    """Which file a name means, while gin reads one file inside another."""

    def __init__(self) -> None:
        self._being_read: list[pathlib.Path] = []
        self.missing: str | None = None

    def has(self, name: str) -> bool:
        """Whether there is such a file; `missing` is the first name of a search in vain."""
        found = self._find(name) is not None
        self.missing = None if found else self.missing or name
        return found

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[TextIO]:
        """The open file; what it includes is looked for beside it."""
        found = self._find(name)
        if not isinstance(found, pathlib.Path):
            yield _task_file(name, cast(TaskEntry, found))
            return
        if found in self._being_read:
            raise ConfigError(f"{found} includes itself; take the include out.")
        self._being_read.append(found)
        try:
            # With or without a byte order mark.
            with found.open(encoding="utf-8-sig") as file:
                yield file
        finally:
            self._being_read.pop()

    def _find(self, name: str) -> pathlib.Path | TaskEntry | None:
        shipped = _shipped()
        if name in shipped:
            return shipped[name]
        path = pathlib.Path(name).expanduser()
        for folder in (*(file.parent for file in self._being_read[-1:]), pathlib.Path.cwd()):
            if (folder / path).is_file():
                return (folder / path).resolve()
        return shipped.get(posixpath.normpath(name))


@functools.cache
def _shipped() -> dict[str, pathlib.Path | TaskEntry]:
    """What ships, by name."""
    files: dict[str, pathlib.Path | TaskEntry] = {
        path.relative_to(folder).as_posix(): path
        for folder in (GIN_DIR, UPSTREAM_GIN_DIR)
        for path in folder.rglob("*.gin")
    }
    return files | {f"tasks/{name}.gin": entry for name, entry in TASKS.items()}


def _task_file(name: str, entry: TaskEntry) -> TextIO:
    file = io.StringIO(entry.gin_file())
    file.name = name  # What gin calls it where there is an error.
    return file


def _check_macros() -> None:
    """Refuses macros that nothing uses, unless a shipped file could, and those without a value."""
    values, used = gin_state.values_of_macros(), gin_state.used_macros()
    for name in sorted(used - values.keys()):
        raise ConfigError(
            f"the macro %{name} is used and has no value; set it, as in `{name} = ...`, or add "
            f"the file that does. Of those that have one, {nearest_name(name, values)}"
        )
    unused = values.keys() - used
    if not unused:
        return
    known = _shipped_macros()
    for name in sorted(unused - known):
        raise ConfigError(
            f"`{name} = {values[name]!r}` has no effect, for nothing uses this macro; "
            f"{nearest_name(name, known | used)}"
        )


def _shipped_macros() -> set[str]:
    """Macros that shipped files set; which files a command has decides whether they are used."""
    known: set[str] = set()
    for source in _shipped().values():
        if isinstance(source, pathlib.Path):
            with source.open(encoding="utf-8") as file:
                known |= gin_state.macros_set_in(file)
    return known


def _check_parameters() -> None:
    for selector, parameter, known in gin_state.unknown_parameters():
        raise ConfigError(
            f"{selector!r} has no parameter {parameter!r}; {nearest_name(parameter, known)}"
        )


def _told(error: Exception, missing: str | None) -> str | None:
    """What to say of an error while a configuration is read; None of one that is not of it."""
    module = _of_a_module(error)
    if module is not None:
        return module
    if isinstance(error, OSError) and missing is not None:
        return f"gin file {missing!r} is not there; {nearest_name(missing, shipped_gin_files())}"
    if isinstance(error, (OSError, SyntaxError, tokenize.TokenError, UnicodeDecodeError)):
        return f"the gin configuration cannot be read: {error}"
    if isinstance(error, KeyError):  # Several configurables of one name.
        return str(error.args[0]) if error.args else str(error)
    return _with_suggestion(str(error)) if isinstance(error, ValueError) else None


def _of_a_module(error: Exception) -> str | None:
    """What to say if a module that was imported failed: its own part of the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    bodies = [number for number, frame in enumerate(frames) if frame.name == "<module>"]
    if bodies:
        own = [f for f in frames[bodies[0] :] if not f.filename.startswith("<frozen importlib")]
        where = "".join(traceback.format_list(own))
        return f"a module that is imported fails:\n{where}{type(error).__name__}: {error}"
    if isinstance(error, ImportError):
        return (
            f"{error}; write a module's name as Python imports it, without .py: one of the current "
            "folder, or one that is installed."
        )
    return None


def _with_suggestion(message: str) -> str:
    unknown = re.search(r"No configurable matching (?:reference )?'@?([^'()]+)", message)
    if unknown:
        names = gin_state.registered_names()
        return f"{message.splitlines()[0]} {nearest_name(unknown[1], names)}"
    unknown = re.search(r"Configurable '(\S+)' doesn't have a parameter named '(\w+)'", message)
    known = gin_state.parameters_of(unknown[1]) if unknown else None
    return f"{message} {nearest_name(unknown[2], known)}" if unknown and known else message
