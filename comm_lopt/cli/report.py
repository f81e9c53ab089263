"""The command `comm-lopt report`: results to one page, with its tables beside it."""

from __future__ import annotations

import argparse
import os
import pathlib
from typing import Any

from comm_lopt.atomic import replacing
from comm_lopt.cli.flags import add_parser
from comm_lopt.meta_test.collections import read_collection
from comm_lopt.report.page import write_page
from comm_lopt.report.results_page import results_markdown, results_page
from comm_lopt.report.tables import csv_table

__all__ = ["add_report"]


def add_report(commands: Any) -> None:
    """Adds the command and its flags."""
    parser = add_parser(commands, "report", _report, "make one page of results, to be looked at")
    parser.add_argument(
        "results",
        nargs="+",
        type=os.path.expanduser,
        metavar="RESULTS",
        help="the --out_dir of a meta-test, its results.json, or a file with several problems",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=os.path.expanduser,
        metavar="FILE.html",
        help="the page; its tables go beside it as .md and .csv",
    )
    parser.add_argument("--title", help="of the page")


def _report(arguments: argparse.Namespace) -> None:
    out = pathlib.Path(arguments.out)
    if out.suffix != ".html":
        raise ValueError(
            f"--out {out} is not the name of a page; write for example --out page.html."
        )
    problems = read_collection(arguments.results)
    if not problems:
        raise ValueError("these results are of no problem; pass the --out_dir of a meta-test.")
    page = results_page(problems, arguments.title)
    out.parent.mkdir(parents=True, exist_ok=True)
    tables = {
        ".md": results_markdown(problems),
        ".csv": csv_table({one.name: one.results for one in problems}),
    }
    for suffix, text in tables.items():
        with replacing(out.with_suffix(suffix)) as path:
            path.write_text(text, encoding="utf-8")
    write_page(out, page)
    print(f"{out}, and its tables in {' and '.join(str(out.with_suffix(s)) for s in tables)}")
