"""What a finished run prints: its table, its verdicts, the address of its page."""

from __future__ import annotations

from pathlib import Path

from dpc.cli.progress import table
from dpc.records.results import Results
from dpc.report import rich_table, threshold_verdict, verdict, write_page


def show_results(results: Results, output: Path) -> None:
    """Write the page; print table, verdicts and the page's address."""
    page = write_page(output, results)
    table.print(rich_table(results))
    for line in (verdict(results), threshold_verdict(results)):
        if line:
            table.print(line)
    table.print(f"page: {page.resolve().as_uri()}", soft_wrap=True, markup=False, highlight=False)
