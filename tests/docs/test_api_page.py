"""The API page has every public name, and their docstrings say the shapes of arrays."""

import pathlib

import pytest

griffe = pytest.importorskip("griffe", reason="the API page is made with the extra [docs]")

import check_api  # noqa: E402

IMPORTS = "import jax\nfrom typing import Any\nPyTree = Any\nMessage = tuple[jax.Array, ...]\n"


def complaints_of(code: str) -> list[str]:
    """What is said of the thing named `it` in a module."""
    module = griffe.visit(
        "small", pathlib.Path("small.py"), IMPORTS + code, docstring_parser="google"
    )
    collection = griffe.ModulesCollection()
    collection["small"] = module
    module._modules_collection = collection
    return list(check_api.complaints_of(module["it"], "it"))


@pytest.fixture(scope="module")
def package():
    return check_api.load_package()


def test_the_page_lacks_nothing(package):
    assert check_api.complaints(check_api.PAGE.read_text(encoding="utf-8"), package) == []


def test_a_name_that_is_not_on_the_page_is_named(package):
    page = check_api.PAGE.read_text(encoding="utf-8")
    for name in ("comm_lopt.LOptR", "comm_lopt.TASKS", "comm_lopt.report.draw_losses"):
        assert f"::: {name}\n" in page
        (complaint,) = check_api.complaints(page.replace(f"::: {name}\n", ""), package)
        assert complaint == f"{name}: docs/api.md does not show it; add ::: {name}"


def test_a_name_that_is_not_there_is_named(package):
    page = check_api.PAGE.read_text(encoding="utf-8") + "::: comm_lopt.LOptZ\n"
    assert check_api.complaints(page, package) == [
        "comm_lopt.LOptZ: docs/api.md shows it, and there is none"
    ]


def test_a_name_that_another_name_shows_is_on_the_page(package):
    page = check_api.PAGE.read_text(encoding="utf-8")
    of_report = page.replace("::: comm_lopt.loss_figure\n", "::: comm_lopt.report.loss_figure\n")
    assert of_report != page
    assert check_api.complaints(of_report, package) == []


@pytest.mark.parametrize(
    "code",
    [
        "def it(x: int) -> int:\n    return x",
        "it: dict = {}",
        "class it:\n    x = 1",
    ],
)
def test_what_has_no_docstring_is_named(code):
    assert complaints_of(code) == ["it: has no docstring"]


@pytest.mark.parametrize(
    ("annotation", "is_array"),
    [
        ("jax.Array", True),
        ("PyTree", True),
        ("np.ndarray | None", True),
        ("dict[str, jax.Array]", True),
        ("Callable[[jax.Array], float]", True),
        ("Message", True),
        ("float", False),
        ("list[str]", False),
    ],
)
def test_annotations_say_what_is_an_array(annotation, is_array):
    taken = complaints_of(f'def it(x: {annotation}) -> None:\n    """Takes it."""')
    assert taken == ["it: does not say the shape of x"] * is_array
    given = complaints_of(f'def it() -> {annotation}:\n    """Gives it."""')
    assert given == ["it: does not say the shape of what it returns"] * is_array


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("batches [K, H, B, ...].", True),
        ("averages, [3, *s].", True),
        ("windows [B, L + 1].", True),
        ("a number, [].", True),
        ("a scalar.", True),
        ("A tree of arrays.", True),
        ("a random key.", True),
        ("of the shapes of W.", True),
        ("like the parameters with a leading K.", True),
        ("in [0, 1].", False),
        ("as in [12].", False),
        ("the value of state[K].", False),
        ("see [the page](page.md).", False),
        ("the weights.", False),
    ],
)
def test_what_says_a_shape(words, says):
    code = f'def it(x: jax.Array) -> None:\n    """It.\n\n    Args:\n      x: {words}\n    """'
    assert (complaints_of(code) == []) is says


def test_each_argument_says_its_own_shape():
    code = '''def it(x: jax.Array, y: jax.Array, z: jax.Array) -> jax.Array:
    """The sum, a scalar.

    Args:
      x: of shape [N].
      y: the other one.

    Returns:
      The sum.
    """
'''
    assert complaints_of(code) == [
        "it: does not say the shape of y",
        "it: does not say the shape of z",
        "it: does not say the shape of what it returns",
    ]


def test_a_class_answers_for_its_fields_and_for_its_own_methods():
    code = '''class it:
    """A pair.

    Attributes:
      first: a scalar.
    """

    first: jax.Array
    second: jax.Array

    def both(self) -> jax.Array:
        """The two of them."""

    @property
    def sum(self) -> jax.Array:
        return self.first + self.second

    def _hidden(self, x: jax.Array) -> None:
        pass
'''
    assert complaints_of(code) == [
        "it: does not say the shape of second",
        "it.both: does not say the shape of what it returns",
        "it.sum: has no docstring",
    ]
