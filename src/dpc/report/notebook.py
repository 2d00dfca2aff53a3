"""Results as a notebook shows them: an HTML table, and a plain text where there is no HTML."""

from __future__ import annotations

from html import escape
from io import StringIO

from rich.console import Console

from dpc.records.results import Results
from dpc.report.results_table import COLUMNS, results_rows, rich_table, verdict


def results_html(results: Results) -> str:
    """The results table and the verdict, without style sheet or script."""
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in results_rows(results)
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"{table}<p>{escape(verdict(results))}</p>"


def results_text(results: Results) -> str:
    """The results table as plain text of at most 80 columns."""
    console = Console(width=80, record=True, color_system=None, force_jupyter=False, file=StringIO())
    console.print(rich_table(results))
    return console.export_text().rstrip()
