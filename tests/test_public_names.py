"""The public surface: every name is there, documented and typed."""

import importlib
import inspect
import pathlib
import pkgutil

import pytest

import comm_lopt

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs" / "api.md"
MODULES = ["comm_lopt"] + [
    module.name
    for module in pkgutil.walk_packages(comm_lopt.__path__, "comm_lopt.")
    if not module.name.endswith("__main__")
]


@pytest.mark.parametrize("module_name", MODULES)
def test_module_and_its_public_names_are_documented(module_name):
    module = importlib.import_module(module_name)
    assert module.__doc__
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{module_name}.{name} has no docstring"


def test_public_functions_are_fully_annotated():
    for name in comm_lopt.__all__:
        value = getattr(comm_lopt, name)
        if inspect.isfunction(value) and value.__module__.startswith("comm_lopt"):
            signature = inspect.signature(value)
            assert signature.return_annotation is not inspect.Signature.empty, name
            for parameter in signature.parameters.values():
                assert parameter.annotation is not inspect.Parameter.empty, (name, parameter)


def test_api_page_has_every_optimizer():
    text = DOCS.read_text(encoding="utf-8")
    for name, entry in comm_lopt.OPTIMIZERS.items():
        where = name if entry.is_learned else f"optimizers.rules.{entry.make.__name__}"
        assert f"::: comm_lopt.{where}\n" in text, name
