"""The one place that knows gin's inner structures: what is bound, what was used, who reads files.

Gin's public functions answer for one name at a time, or with text for people.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import pprint
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import gin
from gin import config_parser

from comm_lopt.hyperparameters import plain

__all__ = [
    "MACRO",
    "OperativeSetting",
    "bindings",
    "expanded",
    "forget_macros",
    "macros_set_in",
    "note_as_called",
    "operative_settings",
    "parameters_of",
    "reading_first_with",
    "registered_names",
    "unknown_parameters",
    "used_macros",
    "values_of_macros",
]

Bindings = Mapping[tuple[str, str], Mapping[str, Any]]

MACRO = "gin.macro"
"""The configurable that stands behind every macro; the macro's name is its scope."""


@dataclasses.dataclass(frozen=True)
class OperativeSetting:
    """A parameter of something that was called.

    Attributes:
      scope: the gin scopes that it was called in, with slashes between, or "".
      selector: the configurable, as short as it is unique.
      parameter: its name.
      text: its value, with that of a macro where one stood.
      configurable: the function or class.
    """

    scope: str
    selector: str
    parameter: str
    text: str
    configurable: Callable[..., Any]

    @property
    def binding(self) -> str:
        """What gin binds, whatever the scope."""
        return f"{self.selector}.{self.parameter}"

    @property
    def name(self) -> str:
        """The binding with its scope."""
        return f"{self.scope}/{self.binding}" if self.scope else self.binding


def operative_settings() -> list[OperativeSetting]:
    """Every parameter of what gin has called so far, defaults included.

    Left out are macros, whose values stand where they are used, and values that no gin file could
    hold, such as functions.
    """
    with gin.config._OPERATIVE_CONFIG_LOCK:
        operative = {key: dict(called) for key, called in gin.config._OPERATIVE_CONFIG.items()}
    settings = []
    for (scope, selector), called in sorted(operative.items()):
        for parameter, value in sorted(called.items()):
            value = plain(expanded(value, bindings()))
            if selector != MACRO and _is_literal(value):
                settings.append(
                    OperativeSetting(
                        scope,
                        gin.config._REGISTRY.minimal_selector(selector),
                        parameter,
                        pprint.pformat(value, width=sys.maxsize),
                        gin.config._REGISTRY[selector].wrapped,
                    )
                )
    return settings


def note_as_called(selector: str) -> None:
    """Counts a configurable's bindings and defaults as operative without calling it."""
    configurable = gin.config._REGISTRY.get_match(selector)
    signature = inspect.signature(configurable.wrapped)
    values = {name: parameter.default for name, parameter in signature.parameters.items()}
    values |= bindings().get(("", configurable.selector), {})
    with gin.config._OPERATIVE_CONFIG_LOCK:
        called = gin.config._OPERATIVE_CONFIG.setdefault(("", configurable.selector), {})
        called.update({name: value for name, value in values.items() if _is_literal(value)})


def forget_macros() -> None:
    """Takes away all macros, once nothing refers to one."""
    for key in [key for key in gin.config._CONFIG if key[1] == MACRO]:
        del gin.config._CONFIG[key]


def _is_literal(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_literal, value)) and all(map(_is_literal, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_literal, value))
    return isinstance(
        value, (str, bytes, int, float, complex, type(None), gin.config.ConfigurableReference)
    )


def bindings() -> Bindings:
    """What is bound: by scope and full selector, parameter to value."""
    return gin.config._CONFIG


def expanded(value: Any, config: Bindings) -> Any:
    """Returns `value` itself if no macro occurs in it, or a copy with what they stand for."""
    if isinstance(value, gin.config.ConfigurableReference):
        macro = config.get(value.config_key) if value.evaluate else None
        if macro is None or value.config_key[1] != MACRO or "value" not in macro:
            return value  # A macro that has no value is gin's to report, and it does.
        return expanded(macro["value"], config)
    if isinstance(value, dict):
        items = {key: expanded(item, config) for key, item in value.items()}
        return items if any(items[key] is not value[key] for key in value) else value
    if isinstance(value, (list, tuple)):
        items_of = [expanded(item, config) for item in value]
        changed = any(new is not old for new, old in zip(items_of, value, strict=True))
        return type(value)(items_of) if changed else value
    return value


def values_of_macros() -> dict[str, Any]:
    """Every macro that has a value."""
    return {
        name: bound["value"]
        for (name, selector), bound in bindings().items()
        if selector == MACRO and "value" in bound
    }


def used_macros() -> set[str]:
    """Names of the macros that some binding refers to."""
    references = (reference.config_key for reference in gin.config.iterate_references(bindings()))
    return {name for name, selector in references if selector == MACRO}


class _NamesAlone(config_parser.ParserDelegate):
    """Parses without looking up what is referred to."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> None:
        pass

    def macro(self, macro_name: str) -> None:
        pass


def macros_set_in(file: Any) -> set[str]:
    """Names of the macros that an open gin file gives a value, those of its includes left out."""
    return {
        f"{statement.scope}/{statement.selector}" if statement.scope else statement.selector
        for statement in config_parser.ConfigParser(file, _NamesAlone())
        if isinstance(statement, config_parser.BindingStatement) and not statement.arg_name
    }


def registered_names() -> set[str]:
    """What is registered with gin, without modules."""
    return {configurable.name for _, configurable in gin.config._REGISTRY.items()}


def unknown_parameters() -> Iterator[tuple[str, str, set[str]]]:
    """Bindings of parameters that a class hands on to its bases, and that none of them has.

    Gin takes any name for a class whose constructor takes `**kwargs`.

    Yields:
      Selector, parameter, and the parameters that there are.
    """
    for (_, selector), bound in bindings().items():
        known = parameters_of(selector)
        if known is not None:
            for parameter in sorted(bound.keys() - known):
                yield gin.config._REGISTRY.minimal_selector(selector), parameter, known


def parameters_of(selector: str) -> set[str] | None:
    """Names of the parameters of a configurable; None if it takes any.

    Raises:
      KeyError, ValueError: none of that name, or several.
    """
    wrapped = gin.config._REGISTRY.get_match(selector).wrapped
    makes: Iterable[Any] = (wrapped,)
    if isinstance(wrapped, type) and _takes_any(wrapped):
        makes = (base.__dict__["__init__"] for base in wrapped.__mro__ if "__init__" in vars(base))
    known: set[str] = set()
    for make in makes:
        if make is object.__init__:
            break
        known |= set(inspect.signature(make).parameters)
        if not _takes_any(make):
            return known
    return None


def _takes_any(make: Callable[..., Any]) -> bool:
    kinds = {parameter.kind for parameter in inspect.signature(make).parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds


@contextlib.contextmanager
def reading_first_with(
    open_file: Callable[[str], Any], is_file: Callable[[str], bool]
) -> Iterator[None]:
    """Has gin ask this reader of files before all others, for the time being.

    Gin's reader of files in packages fails with a TypeError where a plain folder has a package's
    name; here it finds nothing there.
    """

    def finds(reader: Callable[[str], bool], name: str) -> bool:
        try:
            return reader(name)
        except TypeError:
            return False

    readers = gin.config._FILE_READERS
    before = list(readers)
    others = [(opens, lambda name, has=has: finds(has, name)) for opens, has in before]
    readers[:] = [(open_file, is_file), *others]
    try:
        yield
    finally:
        readers[:] = before
