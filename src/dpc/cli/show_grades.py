"""What ``dpc score`` prints."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from dpc.report.formats import percent
from dpc.run.score import Grades


def print_grades(grades: Grades) -> None:
    """Print accuracy, interval and the number of texts without an answer, a line for each grader."""
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("graded by")
    for heading in ("accuracy %", "95% interval", "correct", "no answer"):
        table.add_column(heading, justify="right")
    for name, scores in grades.scores.items():
        figures = grades.figures(name)
        low, high = figures["interval"]
        table.add_row(
            name,
            percent(figures["accuracy"]),
            f"{percent(low)} to {percent(high)}",
            f"{figures['correct']} of {len(scores)}",
            str(figures["no_answer"]),
        )
    console = Console()
    named, rows, of = grades.described, len(grades.examples), grades.described["rows_of_split"]
    count = f"{rows} rows" if rows == of else f"{rows} of {of} rows"
    console.print(f"{named['task']} {named['split']}, {count}", highlight=False, markup=False)
    console.print(table)
