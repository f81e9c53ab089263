"""A page: one HTML file with its data, style and scripts inside, which loads nothing.

Charts are drawn by Vega-Lite, whose scripts vl-convert brings (the extra `comm-lopt[report]`).
"""

from __future__ import annotations

import functools
import html
import importlib.resources
import json
import pathlib
import string
import sys
from collections.abc import Callable, Mapping, Sequence

from comm_lopt.atomic import replacing
from comm_lopt.palette import COLOURS, Look
from comm_lopt.report.charts import INK, Spec
from comm_lopt.report.tables import Cell

__all__ = [
    "PAGE_FILE",
    "chart",
    "document",
    "leave_page",
    "legend",
    "legend_of",
    "scrolled",
    "section",
    "sortable_table",
    "write_page",
]

PAGE_FILE = "page.html"

# The browser itself sees to it that nothing is loaded. Vega makes functions of its expressions.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "img-src data:"
)
_DARK_INK = {"ink": "#e8eaee", "quiet": "#a3abb8", "faint": "#2a3039", "page": "#15181d"}
_DOCUMENT = string.Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
</head>
<body>
<main>
<header>
<h1>$title</h1>
$lead
</header>
$body
<footer>$foot</footer>
</main>
<script type="module">$library</script>
<script type="module">$script</script>
</body>
</html>
""")


def document(title: str, lead: str, body: Sequence[str], foot: str) -> str:
    """The whole page.

    Args:
      title: a text.
      lead: HTML below the title.
      body: HTML of what follows.
      foot: a text at the end.

    Raises:
      ImportError: the library that has the scripts is not installed.
    """
    return _DOCUMENT.substitute(
        policy=_POLICY,
        title=html.escape(title),
        style=string.Template(_file("page.css")).substitute(dark=_dark()),
        lead=lead,
        body="\n".join(body),
        foot=html.escape(foot),
        library=_library(),
        script=_file("page.js"),
    )


def write_page(path: pathlib.Path, page: str) -> None:
    """Writes a page in one step."""
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def leave_page(folder: pathlib.Path, make: Callable[[], str]) -> pathlib.Path | None:
    """Writes page.html into a folder of results, which a failure is told and harms nothing.

    Returns:
      The page's path; None where there is none.
    """
    try:
        write_page(folder / PAGE_FILE, make())
    # The results are there, and the list of what a library may raise is open.
    except Exception as error:
        told = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        print(f"no {PAGE_FILE}: {told}", file=sys.stderr)
        return None
    return folder / PAGE_FILE


def section(name: str, title: str, *parts: str) -> str:
    """A part of the page under a heading, which a link may lead to.

    Args:
      name: of the link.
      title: a text.
      *parts: HTML.
    """
    body = "\n".join(parts)
    name = html.escape(name)
    return f'<section id="{name}">\n<h2>{html.escape(title)}</h2>\n{body}\n</section>'


def chart(spec: Spec, alt: str, caption: str = "") -> str:
    """A figure with what those are told who do not see it, and a caption in HTML."""
    # No "<" in it can end the script.
    data = json.dumps(spec, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    below = f"\n<figcaption>{caption}</figcaption>" if caption else ""
    return (
        f'<figure>\n<div class="chart" role="img" aria-label="{html.escape(alt)}">'
        f'<script type="application/json">{data}</script></div>{below}\n</figure>'
    )


def legend(drawn_as: Mapping[str, Look]) -> str:
    """How each label is drawn."""
    return legend_of([(*_drawn(look), label) for label, look in drawn_as.items()])


def legend_of(items: Sequence[tuple[str, float, str, str]]) -> str:
    """How lines are drawn: colour, width, lengths of dashes and gaps, and what each is."""
    told = "".join(
        f"<li>{_swatch(colour, width, dashes)}{html.escape(label)}</li>"
        for colour, width, dashes, label in items
    )
    return f'<ul class="legend" aria-label="lines">{told}</ul>'


def sortable_table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    drawn_as: Mapping[str, Look] | None = None,
) -> str:
    """A table whose columns are sorted by the buttons above them.

    Args:
      caption: a text.
      header: texts.
      rows: cells; the first of a row names it.
      drawn_as: the look of the rows' names.
    """
    is_text = [any(isinstance(row[x].value, str) for row in rows) for x in range(len(header))]
    columns = "".join(
        f'<th scope="col"{_class(text)}><button type="button">{html.escape(name)}</button></th>'
        for name, text in zip(header, is_text, strict=True)
    )
    lines = []
    for row in rows:
        swatch = _swatch(*_drawn(drawn_as[row[0].text])) if drawn_as else ""
        first, *others = (html.escape(cell.text) for cell in row)
        cells = [f'<th scope="row"{_value(row[0])}>{swatch}{first}</th>']
        cells += [
            f"<td{_class(text)}{_value(cell)}>{told}</td>"
            for told, cell, text in zip(others, row[1:], is_text[1:], strict=True)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return scrolled(
        caption,
        f"<table>\n<caption>{html.escape(caption)}</caption>\n<thead><tr>{columns}</tr></thead>\n"
        f"<tbody>\n{chr(10).join(lines)}\n</tbody>\n</table>",
    )


def scrolled(label: str, table: str) -> str:
    """A table that scrolls by itself where it is wider than the page, by keys as well."""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(label)}">\n'
        f"{table}\n</div>"
    )


def _class(text: bool) -> str:
    return ' class="text"' if text else ""


def _value(cell: Cell) -> str:
    return "" if cell.value is None else f' data-value="{html.escape(str(cell.value))}"'


def _drawn(look: Look) -> tuple[str, float, str]:
    return look.colour.light, look.width, " ".join(f"{length:g}" for length in look.dashes)


def _swatch(colour: str, width: float, dashes: str) -> str:
    return (
        '<svg viewBox="0 0 26 10" aria-hidden="true"><line x1="0" y1="5" x2="26" y2="5" '
        f'stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dashes}"/></svg>'
    )


def _dark() -> str:
    """Rules that exchange the colours in a drawing, as a light page has them, for a dark one's."""
    pairs = [(colour.light, colour.dark) for colour in COLOURS]
    pairs += [(INK[name], _DARK_INK[name]) for name in INK]
    return "\n  ".join(
        f'svg [stroke="{light}"] {{ stroke: {dark}; }} svg [fill="{light}"] {{ fill: {dark}; }}'
        for light, dark in pairs
    )


def _file(name: str) -> str:
    return importlib.resources.files("comm_lopt.report").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed; making it takes some seconds."""
    try:
        import vl_convert
    except ImportError as error:
        raise ImportError(
            'pages need vl-convert; install it with pip install "comm-lopt[report]".'
        ) from error
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
