"""The page of results: each problem's curves, bars and table, and all problems in a heat map."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from comm_lopt.meta_test.collections import TitledResults
from comm_lopt.palette import Look, looks
from comm_lopt.report.charts import bars_chart, curves_chart
from comm_lopt.report.heat import HeatCell, heat_map
from comm_lopt.report.page import chart, document, legend, section, sortable_table
from comm_lopt.report.tables import (
    markdown_rows,
    markdown_table,
    ranked,
    results_table,
    target_label,
)

__all__ = ["best_baseline", "facts", "foot", "ratio_rows", "results_markdown", "results_page"]


def results_page(problems: Sequence[TitledResults], title: str | None = None) -> str:
    """One HTML page of the results of one problem or several.

    Args:
      problems: at least one.
      title: of the page; made of the problems if None.

    Raises:
      ImportError: the extra that pages need is not installed.
    """
    labels = looks(pair for one in problems for pair in one.results["methods"].items())
    several = len(problems) > 1
    only = problems[0]
    title = title or (
        f"{len(labels)} methods on {len(problems)} problems" if several else only.title
    )
    body = []
    if several:
        links = "".join(
            f'<li><a href="#{_anchor(n)}">{html.escape(one.title)}</a></li>'
            for n, one in enumerate(problems)
        )
        body.append(f'<nav aria-label="problems"><ul>{links}</ul></nav>')
        body.append(_generalisation(problems, list(labels)))
        body += [
            section(_anchor(n), one.title, facts(one.results), *_parts(one.results, labels))
            for n, one in enumerate(problems)
        ]
    else:
        body += _parts(only.results, labels)
    lead = f"<p>{_HOW}</p>" if several else facts(only.results)
    return document(title, lead, body, foot([one.results for one in problems]))


_HOW = (
    "Every method trains every problem for the same number of communication rounds. "
    "Values are means over seeds; bands and ± are one standard deviation."
)


def results_markdown(problems: Sequence[TitledResults]) -> str:
    """The tables of the page in Markdown."""
    if len(problems) == 1:
        return markdown_table(problems[0].results)
    parts = ["## Final training loss, as a ratio to the best baseline's"]
    columns, rows = ratio_rows(problems)
    header = ["problem", *columns]
    parts.append(markdown_rows([header, *([t, *(cell.text for cell in c)] for t, c in rows)]))
    for one in problems:
        parts += [f"## {one.title}", markdown_table(one.results).rstrip()]
    return "\n\n".join(parts) + "\n"


def best_baseline(results: Mapping[str, Any]) -> str | None:
    """The hand-designed method with the lowest final training loss, if there is one."""
    baselines = {label: e for label, e in results["methods"].items() if not e["learned"]}
    first = next(iter(ranked(baselines)), None)
    return first if first and baselines[first]["final_train_loss"] else None


def ratio_rows(
    problems: Sequence[TitledResults],
) -> tuple[list[str], list[tuple[str, list[HeatCell]]]]:
    """Labels, learned ones first, and a row of each problem: final loss / best baseline's."""
    entries: dict[str, bool] = {}
    for one in problems:
        for label, entry in one.results["methods"].items():
            entries.setdefault(label, entry["learned"])
    labels = sorted(entries, key=lambda label: not entries[label])
    rows = []
    for one in problems:
        methods, best = one.results["methods"], best_baseline(one.results)
        first = next(iter(ranked(methods)), None)
        cells = []
        for label in labels:
            loss = methods[label]["final_train_loss"] if label in methods else None
            if label not in methods:
                cells.append(HeatCell("", f"{label}: not run on {one.title}", mark="none"))
            elif loss is None or best is None:
                why = "not finite" if loss is None else f"{loss:.4g}"
                cells.append(HeatCell(why, f"{label} on {one.title}: {why}", mark="none"))
            else:
                least = methods[best]["final_train_loss"]
                shown = f"{label} on {one.title}: {loss:.4g}; best baseline, {best}: {least:.4g}"
                mark = "best" if label == first else ""
                cells.append(HeatCell(_two_digits(loss / least), shown, loss / least, mark))
        rows.append((one.title, cells))
    return labels, rows


def _two_digits(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def _generalisation(problems: Sequence[TitledResults], labels: Sequence[str]) -> str:
    columns, rows = ratio_rows(problems)
    caption = (
        "1 is the loss of the best baseline, which is hand-designed and tuned, on that problem. "
        "Blue is lower and better, orange higher; colours are full at two thirds and at one and "
        "a half. "
        "<b>Bold</b>: the lowest of a row."
    )
    return section(
        "generalisation",
        "Final training loss, as a ratio to the best baseline’s",
        heat_map(caption, "problem", columns, rows),
    )


def _parts(results: Mapping[str, Any], drawn_as: Mapping[str, Look]) -> list[str]:
    methods = {label: results["methods"][label] for label in ranked(results["methods"])}
    if not methods:
        return ["<p>No method has run.</p>"]
    order = {label: drawn_as[label] for label in methods}
    best = next(iter(methods))
    parts = [
        "<h3>Training loss over communication rounds</h3>",
        legend(order),
        chart(
            curves_chart(methods, order),
            f"Training loss of {len(methods)} methods over rounds; {best} ends lowest. "
            "The table below has the values.",
        ),
    ]
    panels = [_bars(results, methods, target, order) for target in results["targets"]]
    if panels:
        parts += ["<h3>Communication rounds to a target loss</h3>"]
        parts += [f'<div class="panels">{"".join(panels)}</div>']
    header, rows = results_table(results)
    parts += ["<h3>All values</h3>", sortable_table(_caption(results), header, rows, order)]
    return parts


def _bars(
    results: Mapping[str, Any],
    methods: Mapping[str, Any],
    target: str,
    drawn_as: Mapping[str, Look],
) -> str:
    loss, rounds = results["targets"][target], results["problem"]["num_rounds"]
    told = target_label(target) + ("" if loss is None else f", {loss:.4g}")
    reached = {label: entry["rounds_to"][target] for label, entry in methods.items()}
    soonest = sorted(reached, key=lambda label: reached[label] or rounds + 1)
    values = {label: reached[label] for label in soonest}
    alt = f"Rounds to {told}: " + ", ".join(f"{k} {v or 'not reached'}" for k, v in values.items())
    bars = chart(bars_chart(values, rounds, drawn_as), alt)
    return f"<div><h4>to {html.escape(told)}</h4>{bars}</div>"


def _caption(results: Mapping[str, Any]) -> str:
    return (
        f"Means of {len(results['seeds'])} seeds ± one standard deviation. KB are a worker's; "
        "hyperparameters at their defaults are left out. The buttons sort."
    )


def facts(results: Mapping[str, Any]) -> str:
    """What results or a sweep are of, in HTML."""
    told = results["problem"]
    numbers = {
        "K": (told["num_workers"], "workers"),
        "H": (told["num_local_steps"], "local steps a round"),
        "B": (told["local_batch_size"], "examples a local step"),
        "T": (told["num_rounds"], "rounds"),
    }
    found = [html.escape(told["task"])]
    if isinstance(told.get("num_parameters"), int):
        found.append(f"{told['num_parameters']:,} parameters")
    found += [
        f"{k}&nbsp;=&nbsp;{n:,}&nbsp;{what}" for k, (n, what) in numbers.items() if n is not None
    ]
    found.append(f"{len(results['seeds'])} seeds")
    return f'<p class="quiet">{"; ".join(found)}.</p>'


def foot(all_results: Sequence[Mapping[str, Any]]) -> str:
    """When and with what results were made."""
    dates = sorted({str(one["date"])[:10] for one in all_results if "date" in one})
    made = f"Results of {dates[0]}" if dates else "Results"
    made += f" to {dates[-1]}" if len(dates) > 1 else ""
    versions = all_results[0].get("versions")
    if isinstance(versions, dict):
        made += "; " + ", ".join(f"{name} {version}" for name, version in versions.items())
    return re.sub(r"\s+", " ", made) + "."


def _anchor(number: int) -> str:
    return f"problem-{number + 1}"
