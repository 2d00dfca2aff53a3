"""Self-contained pages: of a run, of one traced question, and of a server that answers questions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from dpc.files import write_atomically
from dpc.report import sections
from dpc.report.document import document
from dpc.report.page_data import Instance, payload
from dpc.report.run_data import RunData, read_run
from dpc.report.table import COLUMNS, baseline_verdict, label, results_rows, threshold_verdict, verdict


def write_page(run: Path) -> Path:
    """Write ``report.html`` beside the ``results.json`` of the run directory ``run``, and return its path.

    Raises ``UserError`` where the results are missing or damaged, or the page can't be written.
    """
    page = run / "report.html"
    write_atomically(page, render_run(read_run(run)))
    return page


def write_trace_page(path: Path, instance: Instance, *, k: float, facts: Mapping[str, str] | None = None) -> None:
    """Write a page of one question. ``k`` is that of Eq 7; ``facts`` (name and value) say how it was made.

    Raises ``UserError`` where it can't be written.
    """
    values = {"facts": dict(facts or {}), "title": instance.example.question}
    write_atomically(path, document("one.html.j2", values, payload([instance], k=k)))


def live_page(script: str, facts: Mapping[str, str] | None = None) -> bytes:
    """A page with an empty element ``live`` that ``script`` fills; it may ask the server that the page came from.

    ``script`` sees everything in ``web/``: ``instanceView(readPayload(answer).instances[0])`` is an element, where
    ``answer`` is the JSON of ``page_data.payload``. No inline handler or style attribute works on the page.
    """
    return document("live.html.j2", {"facts": dict(facts or {})}, None, own_script=script, server=True)


def render_run(run: RunData) -> bytes:
    """The page of a run. Everything that comes from the run is escaped."""
    results = run.results
    dpc = results.methods.get("dpc")
    values = {
        "results": results,
        "verdict": _unbroken(verdict(results)),
        "baseline_verdict": _unbroken(baseline_verdict(results) or ""),
        "columns": COLUMNS,
        "rows": results_rows(results),
        "notes": sections.notes(results),
        "accuracy_charts": sections.accuracy_charts(results),
        "threshold": sections.threshold(results.calibration, results.test_curve),
        "threshold_verdict": threshold_verdict(results),
        "detection": sections.detection(run.instances, dpc.trigger if dpc else None, results.test_curve),
        "followed": label(run.followed) if run.followed else None,
        "instances": len(run.instances),
        "figures": run.figures,
        "cost_columns": sections.COST_COLUMNS,
        "costs": sections.costs(results),
        "stages": {name: json.dumps(stage, indent=2, ensure_ascii=False) for name, stage in run.stages.items()},
    }
    method = run.method
    data = payload(run.instances, k=method.accumulation_k, masks=method.mask_key) if run.instances else None
    return document("run.html.j2", values, data)


def _unbroken(sentence: str) -> str:
    """Keep ``p = 0.12`` and ``fixed 3`` on one line."""
    return re.sub(r"(?<=fixed|broke) (?=\d)", "\u00a0", re.sub(r" ([=<]) ", "\u00a0\\1\u00a0", sentence))
