"""Results -> a table for the terminal, one for a text, and one self-contained page."""

from __future__ import annotations

from dpc.report.page import live_page, write_page, write_trace_page
from dpc.report.table import (
    COLUMNS,
    baseline_verdict,
    markdown_table,
    results_rows,
    rich_table,
    threshold_verdict,
    verdict,
)

__all__ = [
    "COLUMNS",
    "baseline_verdict",
    "live_page",
    "markdown_table",
    "results_rows",
    "rich_table",
    "threshold_verdict",
    "verdict",
    "write_page",
    "write_trace_page",
]
