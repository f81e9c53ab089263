"""Whether the API page is complete; `make docs` runs it first, and stops where it is not.

It reads the code with Griffe, as what makes the page does, so that it sees what the page shows. It
stands with the tests, because it is one, and not in docs/, all of which is published.
"""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Iterator

import griffe

__all__ = ["complaints", "complaints_of", "load_package", "names_on"]

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "api.md"
PACKAGES = (
    "comm_lopt",
    "comm_lopt.meta_test",
    "comm_lopt.meta_train",
    "comm_lopt.optimizers.rules",
    "comm_lopt.report",
    "comm_lopt.train",
)
"""All public names of these are on the page."""

ARRAYS = re.compile(r"(Arrays?|ArrayLike|ndarray|ShapeDtypeStruct|PyTree|Params|Updates)$")
"""How what holds arrays is called in annotations; names that stand for such are followed."""

AXIS = r"(\.\.\.|\*?\w+( \+ \w+)?)"
SHAPE = re.compile(
    rf"(?<!\w)\[(?=\]|[^\]]*[A-Za-z.])({AXIS}(, {AXIS})*)?\](?!\()"
    r"|\b(?i:scalars?|shapes?|trees?|random keys?|like the (parameters|model state))\b"
)
"""What says a shape: its axes in brackets, such as [K, H, B, ...], [3, *s] or [], one of which has
a name (intervals and citations have none); or in words that it is a scalar, a random key, a tree
of arrays, or of whose shape."""


def load_package() -> griffe.Module:
    """The package, read and not run."""
    package = griffe.load(
        "comm_lopt", search_paths=[ROOT], docstring_parser="google", allow_inspection=False
    )
    assert isinstance(package, griffe.Module)
    return package


def names_on(page: str) -> list[str]:
    """The names that the text of the page asks for."""
    return re.findall(r"^::: (\S+)$", page, re.MULTILINE)


def complaints(page: str, package: griffe.Module) -> list[str]:
    """What is missing, a line each.

    Args:
      page: the page's text.
      package: from `load_package`.
    """
    things, found = {}, []
    for name in names_on(page):
        try:
            things[name] = _named(package, name)
        except KeyError:
            found.append(f"{name}: docs/api.md shows it, and there is none")
    shown = {thing.path for thing in things.values()}
    for module in PACKAGES:
        for public in _named(package, module).exports or ():
            name = f"{module}.{public}"
            thing = _named(package, name)
            if thing.path in shown or name in PACKAGES:
                continue
            found.append(f"{name}: docs/api.md does not show it; add ::: {name}")
            things[name] = thing
            shown.add(thing.path)
    for name, thing in things.items():
        found += complaints_of(thing, name)
    return found


def complaints_of(thing: griffe.Object, name: str) -> Iterator[str]:
    """What the docstrings lack of one public name, and of what its class defines publicly.

    Each has a docstring. Where it takes arrays, by their annotations, their entries under Args or
    Attributes say their shapes; where it gives arrays, Returns does. A docstring without such a
    part says them in its text.
    """
    if thing.docstring is None:
        yield f"{name}: has no docstring"
        return
    sections = thing.docstring.parse("google")
    text = "".join(part.value for part in sections if part.kind.value == "text")
    entries = {
        entry.name.lstrip("*"): entry.description
        for part in sections
        if part.kind.value in ("parameters", "attributes")
        for entry in part.value
    }
    for argument in _arrays_taken(thing):
        if not SHAPE.search(entries.get(argument, "") if entries else text):
            yield f"{name}: does not say the shape of {argument}"
    if _gives_arrays(thing):
        returned = [part for part in sections if part.kind.value == "returns"]
        values = " ".join(entry.description for part in returned for entry in part.value)
        if not SHAPE.search(values or text):
            yield f"{name}: does not say the shape of what it returns"
    if thing.is_class:
        for member in thing.members.values():
            if not member.name.startswith("_") and not member.is_alias and _is_method(member):
                yield from complaints_of(member, f"{name}.{member.name}")


def _named(package: griffe.Module, name: str) -> griffe.Object:
    thing = package if name == package.name else package[name.removeprefix(package.name + ".")]
    return thing.final_target if isinstance(thing, griffe.Alias) else thing


def _is_method(member: griffe.Object) -> bool:
    return member.is_function or "property" in member.labels


def _arrays_taken(thing: griffe.Object) -> Iterator[str]:
    """The names of arguments, or of a class's fields, that are arrays by their annotations."""
    if not (thing.is_class or thing.is_function):
        return
    fields = [m for m in thing.members.values() if m.is_attribute and m.is_public]
    taken = [*thing.parameters, *(field for field in fields if not _is_method(field))]
    yield from dict.fromkeys(each.name for each in taken if _holds_arrays(each.annotation))


def _gives_arrays(thing: griffe.Object) -> bool:
    if thing.is_function:
        return _holds_arrays(thing.returns)
    return "property" in thing.labels and _holds_arrays(thing.annotation)


def _holds_arrays(annotation: griffe.Expr | str | None) -> bool:
    if annotation is None or isinstance(annotation, str):
        return annotation is not None and bool(ARRAYS.search(annotation))
    names = [part for part in annotation.iterate() if isinstance(part, griffe.ExprName)]
    return any(ARRAYS.search(name.name) or _holds_arrays(_stands_for(name)) for name in names)


def _stands_for(name: griffe.ExprName) -> griffe.Expr | str | None:
    """What is assigned to a name in this package."""
    scope = name.parent
    if not isinstance(scope, griffe.Object) or not name.canonical_path.startswith(
        scope.package.name + "."
    ):
        return None
    thing = scope.modules_collection[name.canonical_path]
    # What an alias stands for may be from elsewhere.
    return None if thing.is_alias else getattr(thing, "value", None)


def main() -> int:
    """Prints what is missing, and returns how a process ends."""
    found = complaints(PAGE.read_text(encoding="utf-8"), load_package())
    if found:
        print(f"The API page lacks {len(found)} things:", *found, sep="\n  ", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
