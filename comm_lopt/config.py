"""Gin files: where the shipped ones are, and errors that suggest the nearest name."""

from __future__ import annotations

import importlib
import pathlib
import re
from collections.abc import Sequence

import gin

from comm_lopt.checks import nearest_name
from comm_lopt.upstream.gin_config import add_gin_dir

__all__ = ["GIN_DIR", "ConfigError", "load_config", "shipped_gin_files"]


class ConfigError(ValueError):
    """A gin file, name or binding that cannot be used."""


def _find_gin_dir() -> pathlib.Path:
    # In a checkout the files stand beside the package, in an installed wheel inside it.
    package = pathlib.Path(__file__).resolve().parent
    candidates = (package / "gin_files", package.parent / "gin")
    return next((folder for folder in candidates if folder.is_dir()), candidates[0])


GIN_DIR: pathlib.Path = _find_gin_dir()
"""Folder of the shipped gin files; `include` and `--config_file` find names relative to it."""

add_gin_dir(GIN_DIR)


def shipped_gin_files() -> list[str]:
    """Names of the shipped gin files, such as "tasks/digits_mlp.gin"."""
    return sorted(path.relative_to(GIN_DIR).as_posix() for path in GIN_DIR.rglob("*.gin"))


def load_config(
    config_files: Sequence[str], bindings: Sequence[str] = (), imports: Sequence[str] = ()
) -> None:
    """Replaces gin's configuration by what the files and bindings say.

    Gin files can import Python modules, and doing so runs them: load only files you trust.

    Args:
      config_files: paths, or names of shipped files.
      bindings: such as "LOptA.hidden_size = 16"; they win over the files.
      imports: modules to import first, such as those with one's own configurables.

    Raises:
      ConfigError: a file, module, name or parameter that is not there, or bad syntax.
    """
    gin.clear_config()
    try:
        for module in imports:
            importlib.import_module(module)
        files = [_resolve(file) for file in config_files]
        gin.parse_config_files_and_bindings(files, list(bindings))
    except ConfigError:
        raise
    except OSError as error:
        included = re.search(r"Unable to open file: (\S+?)\. ", str(error))
        raise _no_such_file(included.group(1) if included else str(error)) from error
    except TypeError as error:
        # Gin takes `tasks/x.gin` for a file of a package `tasks`, and fails this way where a
        # plain folder of that name is on Python's path.
        raise ConfigError(
            f"an include cannot be read: {error}; write include './tasks/x.gin', with './', if a "
            "folder of the same name is on Python's path."
        ) from error
    except (ImportError, SyntaxError) as error:
        raise ConfigError(f"the gin configuration cannot be read: {error}") from error
    except ValueError as error:
        raise ConfigError(_with_suggestion(str(error))) from error


def _resolve(file: str) -> str:
    """The file itself, or the shipped one of that name, as a path that gin need not search."""
    for candidate in (pathlib.Path(file), GIN_DIR / file):
        if candidate.is_file():
            return str(candidate.resolve())
    raise _no_such_file(file)


def _no_such_file(name: str) -> ConfigError:
    return ConfigError(f"gin file {name!r} is not there; {nearest_name(name, shipped_gin_files())}")


def _with_suggestion(message: str) -> str:
    unknown = re.search(r"No configurable matching (?:reference )?'@?([^'()]+)", message)
    if unknown:
        # Gin has no public list of what is registered.
        known = {selector.rsplit(".", 1)[-1] for selector, _ in gin.config._REGISTRY.items()}
        return f"{message.splitlines()[0]} {nearest_name(unknown.group(1), known)}"
    return message
