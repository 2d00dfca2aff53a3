"""A run directory as its page needs it: results, instances with all that is known of each, and how they were made."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpc.errors import UserError
from dpc.files import read_json
from dpc.methods import BASELINE
from dpc.records.directory import RunDirectory
from dpc.report.flow_data import Flow, read_flow
from dpc.report.page_data import Instance, Pass
from dpc.report.schema import Results, read_results
from dpc.settings import MethodSettings
from dpc.types import Generation, Record, Score

ANALYSIS = "analysis"


@dataclass(frozen=True, slots=True)
class PaperFigure:
    """A figure that ``dpc analyze`` left: its drawing as a data address, and its words where there are any."""

    source: str
    title: str
    finding: str
    caption: str


@dataclass(frozen=True, slots=True)
class RunData:
    """All that a run's page shows. followed: the method whose instances are shown, None where none can be.

    stages: what ``run.json`` says of each. method: the settings of the evaluation, as far as they are known.
    """

    results: Results
    followed: str | None
    instances: list[Instance]
    stages: dict[str, Any]
    figures: list[PaperFigure]
    method: MethodSettings


def read_run(path: Path) -> RunData:
    """Read a run directory. Only ``results.json`` must be there; what else is missing is not shown.

    Raises ``UserError`` naming the file where one is damaged.
    """
    run = RunDirectory(path)
    results = read_results(run.results)
    stages = run.manifest()["stages"]
    records = {name: run.records(name).read() for name in results.methods}
    followed = _followed(records) if run.examples.exists() else None
    return RunData(
        results=results,
        followed=followed,
        instances=[] if followed is None else _instances(run, records, followed),
        stages=stages,
        figures=_figures(path / ANALYSIS),
        method=_method(stages),
    )


def _followed(records: Mapping[str, Sequence[Record]]) -> str | None:
    """DPC where it was run, else the first method that decides, else prompt tuning, else the first."""
    kept = {name: made for name, made in records.items() if made}
    deciding = [name for name, made in kept.items() if made[0].answer.decision is not None]
    order = ["dpc", *deciding, BASELINE, *kept]
    return next((name for name in order if name in kept), None)


def _instances(run: RunDirectory, records: Mapping[str, Sequence[Record]], followed: str) -> list[Instance]:
    """One for each row that ``followed`` answered, in the order of the rows."""
    by_method = {name: {record.example_id: record for record in made} for name, made in records.items()}
    known = read_json(run.vocabulary, "vocabulary") if run.vocabulary.exists() else {}
    if not isinstance(known, dict):
        raise UserError(f"{run.vocabulary}: is not a readable vocabulary; evaluate again")
    flows = _flows(run.path / "maps")
    found = []
    for example in run.read_examples():
        record = by_method[followed].get(example.id)
        if record is None:
            continue
        grades = {name: made[example.id].score_final for name, made in by_method.items() if example.id in made}
        baseline = grades.get(BASELINE) if followed != BASELINE else None
        answer = record.answer
        found.append(
            Instance(
                example=example,
                first=_pass(answer.first, record.score_first, known),
                second=None if answer.second is None else _pass(answer.second, record.score_final, known),
                decision=answer.decision,
                baseline_correct=None if baseline is None else baseline.correct,
                answers=grades,
                flow=flows.get(example.id),
            )
        )
    return found


def _pass(generation: Generation, score: Score, vocabulary: Mapping[str, str]) -> Pass:
    texts = [vocabulary.get(str(token)) for token in generation.ids]
    tokens = tuple(text for text in texts if text is not None)
    return Pass(generation, score, tokens if len(tokens) == len(texts) else ())


def _flows(directory: Path) -> dict[str, Flow]:
    return dict(read_flow(path) for path in sorted(directory.glob("*.npz")))


def _method(stages: Mapping[str, Any]) -> MethodSettings:
    try:
        return MethodSettings.model_validate(stages["eval"]["from"]["method"])
    except (KeyError, TypeError, ValueError):
        return MethodSettings()


def _figures(directory: Path) -> list[PaperFigure]:
    words = read_json(directory / "analysis.json", "analysis") if (directory / "analysis.json").exists() else {}
    said = words.get("figures", {}) if isinstance(words, dict) else {}
    found = []
    for path in sorted(directory.glob("*.svg")):
        own = said.get(path.stem, {}) if isinstance(said, dict) else {}
        title, finding, caption = (str(own.get(key, "")) for key in ("title", "finding", "caption"))
        source = "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
        found.append(PaperFigure(source, f"Figure {path.stem}" + (f". {title}" if title else ""), finding, caption))
    return found
