"""Self-contained pages: of a run, of one traced question, and of a server that answers questions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from dpc.files import write_atomically
from dpc.records.results import Results
from dpc.report import sections
from dpc.report.document import document
from dpc.report.formats import UNDEFINED, method_label
from dpc.report.page_data import Instance, payload
from dpc.report.results_table import COLUMNS, baseline_verdict, results_rows, threshold_verdict, verdict
from dpc.report.run_data import RunData, read_run
from dpc.report.tuning_curve import tuning_section
from dpc.settings import MethodSettings


def write_page(run: Path, results: Results | None = None) -> Path:
    """Write ``report.html`` into the run directory ``run``, and return its path.

    results: as they were just computed from the records; None: as ``read_run`` finds them.
    Raises ``UserError`` where the results are missing or damaged, or the page cannot be written.
    """
    return write_run_page(read_run(run, results))


def write_run_page(run: RunData) -> Path:
    """Write ``report.html`` into a run directory that was read, and return its path.

    Raises ``UserError`` where it cannot be written.
    """
    page = run.path / "report.html"
    write_atomically(page, render_run(run))
    return page


def trace_page(instance: Instance, settings: MethodSettings, facts: Mapping[str, str] | None = None) -> str:
    """A page of one question. settings: of the trace. facts (name and value): how it was made."""
    values = {"facts": dict(facts or {}), "title": instance.example.question}
    return document("one.html.j2", values, payload([instance], settings)).decode()


def live_page(script: str, facts: Mapping[str, str] | None = None) -> bytes:
    """A page with an empty element ``live`` that ``script`` fills; it may connect to the server it came from.

    ``script`` can use everything in ``web/``: ``instanceView(readPayload(answer).instances[0])`` is an element, where
    ``answer`` is the JSON of ``page_data.payload``. No inline handler or style attribute works on the page.
    """
    return document("live.html.j2", {"facts": dict(facts or {})}, None, own_script=script, server=True)


def render_run(run: RunData) -> bytes:
    """The page of a run. Everything that comes from the run is escaped."""
    results = run.results
    shown = results.methods.get(run.followed or "dpc")
    rows = results_rows(results)
    shown_columns = [i for i, name in enumerate(COLUMNS) if name != "asked" or any(row[i] != UNDEFINED for row in rows)]
    values = {
        "results": results,
        "verdict": _unbroken(verdict(results)),
        "baseline_verdict": _unbroken(baseline_verdict(results) or ""),
        "columns": [COLUMNS[i] for i in shown_columns],
        "rows": [[row[i] for i in shown_columns] for row in rows],
        "notes": [*(f"{note}." for note in run.notes), *sections.notes(results)],
        "accuracy_charts": sections.accuracy_charts(results),
        "tuning": tuning_section(run.tuning),
        "threshold": sections.threshold(results.calibration, results.test_curve),
        "threshold_verdict": threshold_verdict(results),
        "detection": sections.detection(run.instances, shown.trigger if shown else None, results.test_curve),
        "followed": method_label(run.followed) if run.followed else None,
        "instances": len(run.instances),
        "figures": run.figures,
        "cost_columns": sections.COST_COLUMNS,
        "costs": sections.costs(results),
        "stages": {name: json.dumps(stage, indent=2, ensure_ascii=False) for name, stage in run.stages.items()},
    }
    return document("run.html.j2", values, payload(run.instances, run.settings) if run.instances else None)


def _unbroken(sentence: str) -> str:
    """Keep ``p = 0.12`` and ``fixed 3`` on one line."""
    return re.sub(r"(?<=fixed|broke) (?=\d)", "\u00a0", re.sub(r" ([=<]) ", "\u00a0\\1\u00a0", sentence))
