"""Results -> a table for the terminal, one for a text, and one self-contained page."""

from __future__ import annotations

from dpc.report.page import write_page
from dpc.report.table import COLUMNS, baseline_verdict, markdown_table, results_rows, rich_table, verdict

__all__ = [
    "COLUMNS",
    "baseline_verdict",
    "markdown_table",
    "results_rows",
    "rich_table",
    "verdict",
    "write_page",
]
