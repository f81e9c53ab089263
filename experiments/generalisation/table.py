"""The table of all problems and methods, and the figure of six of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from records import TARGETS

from comm_lopt.palette import looks
from comm_lopt.pictures import empty_figure, without_tex
from comm_lopt.report import draw_losses, markdown_rows, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure", "table"]

Cell = Callable[[Mapping[str, Any], Mapping[str, Any]], str]

_DRAWN = ("mlp", "conv", "vit", "transformer", "mlp_h16", "mlp_dirichlet")
_SEEN = (
    "Tasks 1, 5 and 6 were looked at in trials before the learned rules were designed; no task "
    "here was used in meta-training or selection."
)


def table(summary: Mapping[str, Any], title: str = "Test tasks", told: str = _SEEN) -> str:
    """All of results.json that people look at, as Markdown.

    Args:
      summary: what results.json has.
      title: of the page.
      told: what is to be known before one looks.
    """
    problems = summary["problems"]
    labels = list(dict.fromkeys(m for p in problems.values() for m in p["results"]["methods"]))
    parts = [
        f"# {title}",
        f"{told} ± is the standard deviation over the test seeds; **bold** is the best of a "
        "row. Baselines are tuned on each problem, on other seeds.",
        _sizes(problems),
        "## Final training loss",
        _grid(problems, labels, lambda e, r: _loss(e, e, "final_train_loss", r), _final),
        "## Held-out loss",
        _grid(
            problems,
            labels,
            lambda e, r: _loss(e, e["heldout"], "loss", r),
            lambda e: e["heldout"]["loss"],
        ),
        f"## Rounds to the final loss of {' / '.join(TARGETS)}, as a share of T",
        _grid(problems, labels, _shares),
        *_verdict_parts(summary["verdicts"]),
        *_rate_parts(summary["rate_spreads"]),
        "## CPU seconds, tuning included",
        _seconds(problems, labels),
    ]
    for name, problem in problems.items():
        parts += [f"## {name}: {problem['title']}", markdown_table(problem["results"]).rstrip()]
        edges = {m: t["on_edge"] for m, t in problem["tuning"].items() if t and t["on_edge"]}
        if edges:
            told = "; ".join(f"{method}: {', '.join(names)}" for method, names in edges.items())
            parts.append(f"Best values at the edge of what was tried: {told}.")
    return "\n\n".join(parts) + "\n"


def _sizes(problems: Mapping[str, Any]) -> str:
    rows = [["task", "parameters", "K", "H", "B", "T", "test seeds"]]
    for name, problem in problems.items():
        told = problem["results"]["problem"]
        numbers = ("num_workers", "num_local_steps", "local_batch_size", "num_rounds")
        rows.append(
            [
                f"{problem['task']}. {name}",
                f"{told['num_parameters']:,}",
                *(str(told[number]) for number in numbers),
                str(len(problem["results"]["seeds"])),
            ]
        )
    return markdown_rows(rows)


def _final(entry: Mapping[str, Any]) -> float | None:
    return entry["final_train_loss"]


def _grid(
    problems: Mapping[str, Any],
    labels: Sequence[str],
    cell: Cell,
    rank: Callable[[Mapping[str, Any]], float | None] | None = None,
) -> str:
    """A row per problem and a column per method; the lowest `rank` of a row is bold."""
    rows, bold = [["task", *labels]], set()
    for problem in problems.values():
        results, methods = problem["results"], problem["results"]["methods"]
        ranks = {m: rank(e) for m, e in methods.items()} if rank else {}
        finite = {m: value for m, value in ranks.items() if value is not None}
        best = min(finite, key=lambda m: finite[m], default=None)
        cells = {m: cell(e, results) for m, e in methods.items()}
        if best is not None:
            bold.add((len(rows), 1 + labels.index(best)))
        rows.append([f"{problem['task']}. {problem['title']}", *(cells.get(m, "") for m in labels)])
    return markdown_rows(rows, bold)


def _loss(
    entry: Mapping[str, Any], numbers: Mapping[str, Any], name: str, results: Mapping[str, Any]
) -> str:
    value, deviation = numbers[name], numbers[f"{name}_std"]
    if value is None:
        return f"diverged ({len(entry['diverged_seeds'])} of {len(results['seeds'])})"
    return f"{value:.4g}" + ("" if deviation is None else f" ± {deviation:.2g}")


def _shares(entry: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    total = results["problem"]["num_rounds"]
    rounds = [entry["rounds_to"].get(f"final_loss_of_{name}") for name in TARGETS]
    return " / ".join("-" if number is None else f"{number / total:.2f}" for number in rounds)


def _verdict_parts(all_verdicts: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    parts = []
    for label, found in all_verdicts.items():
        rows = [["asked", "tasks", "needed", "variants", "met", "not in"]]
        for verdict in found:
            rows.append(
                [
                    verdict["criterion"],
                    f"{verdict['tasks_won']} of {verdict['tasks_measured']} measured",
                    f"{verdict['needed']} of {verdict['tasks']}",
                    f"{verdict['variants_won']} of {verdict['variants_measured']}",
                    "yes" if verdict["met"] else "no",
                    ", ".join(verdict["lost"]) or "-",
                ]
            )
        parts += [f"## {label}: what was asked", markdown_rows(rows)]
    return parts


def _rate_parts(spreads: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [["theta", "task", "final training loss at each γ", "worst / best"]]
    for spread in spreads:
        told = (
            f"{r:g}: {'diverged' if x is None else format(x, '.4g')}" for r, x in spread["losses"]
        )
        ratio = spread["worst_over_best"]
        cells = [spread["label"], spread["problem"], ", ".join(told)]
        rows.append([*cells, "diverged" if ratio is None else f"{ratio:.3f}"])
    return ["## Local learning rates", markdown_rows(rows)] if spreads else []


def _seconds(problems: Mapping[str, Any], labels: Sequence[str]) -> str:
    rows = [["task", *labels, "all"]]
    for name, problem in problems.items():
        spent = {label: sum(parts.values()) for label, parts in problem["cpu_seconds"].items()}
        cells = [f"{spent[label]:.0f}" if label in spent else "" for label in labels]
        rows.append([name, *cells, f"{sum(spent.values()):.0f}"])
    total = sum(float(row[-1]) for row in rows[1:])
    return markdown_rows(rows) + f"\n\n{total:.0f} CPU seconds in all."


@without_tex()
def figure(problems: Mapping[str, Any], chosen: Sequence[str] = _DRAWN) -> Figure:
    """Training loss over communications of up to six problems, each method in one colour."""
    drawn = {name: problems[name] for name in chosen if name in problems} or dict(
        list(problems.items())[:6]
    )
    drawn_as = looks(pair for p in drawn.values() for pair in p["results"]["methods"].items())
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    picture = empty_figure(1.0 + 3.4 * columns, 0.9 + 2.8 * rows, "constrained")
    panels = picture.subplots(rows, columns, squeeze=False).ravel()
    shown: dict[str, Any] = {}
    for axes, problem in zip(panels, drawn.values(), strict=False):
        draw_losses(axes, problem["results"]["methods"], drawn_as)
        axes.set_title(problem["title"], fontsize=9)
        shown |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    for axes in panels[len(drawn) :]:
        axes.set_axis_off()
    picture.supxlabel("communication rounds", fontsize=10)
    picture.supylabel("training loss (mean over local steps)", fontsize=10)
    picture.legend([*shown.values()], [*shown], loc="outside upper center", ncols=5, frameon=False)
    return picture
