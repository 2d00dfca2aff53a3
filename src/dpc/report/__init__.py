"""Results as a table for the terminal, a table for a text, and a self-contained page."""

from __future__ import annotations

from dpc.report.page import live_page, trace_page, write_page, write_run_page
from dpc.report.results_table import (
    COLUMNS,
    baseline_verdict,
    markdown_table,
    results_rows,
    rich_table,
    threshold_verdict,
    verdict,
)
from dpc.report.run_data import read_run

__all__ = [
    "COLUMNS",
    "baseline_verdict",
    "live_page",
    "markdown_table",
    "read_run",
    "results_rows",
    "rich_table",
    "threshold_verdict",
    "trace_page",
    "verdict",
    "write_page",
    "write_run_page",
]
