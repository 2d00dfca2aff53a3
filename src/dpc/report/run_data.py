"""A run directory as its page needs it: results, instances with all that is known of each, figures, settings."""

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
from dpc.records.recompute import recompute
from dpc.records.results import Results, read_results
from dpc.report.flow_data import Flow, read_flow
from dpc.report.page_data import Instance, Pass
from dpc.report.tuning_curve import TuningCurve, read_tuning_curve
from dpc.settings import MethodSettings
from dpc.types import Generation, Record, Score

ANALYSIS = "analysis"
# What a figure and an evaluation must have in common for the figure to show the run's present answers.
_IDENTITY = ("model", "prompt_sha256", "tau", "data", "method")


@dataclass(frozen=True, slots=True)
class PaperFigure:
    """A figure that ``dpc analyze`` made: its drawing as a data address, and its texts where there are any.

    made_from: which instances it shows, in words.
    """

    source: str
    title: str
    finding: str
    caption: str
    made_from: str


@dataclass(frozen=True, slots=True)
class RunData:
    """All that a run's page shows.

    notes: what ``results.json`` says otherwise than the records. followed: the method whose instances are shown, None
    where there are none. stages: the content of ``run.json``. settings: the method settings of the evaluation, defaults
    where they are not known.
    """

    path: Path
    results: Results
    notes: tuple[str, ...]
    followed: str | None
    instances: list[Instance]
    stages: dict[str, Any]
    tuning: TuningCurve | None
    figures: list[PaperFigure]
    settings: MethodSettings


def read_run(path: Path, results: Results | None = None) -> RunData:
    """Read a run directory. Only ``results.json`` must be there; what else is missing is not shown.

    results: as they were just computed from the records. None: those of ``results.json``, computed again from the
    records as far as there are any. Raises ``UserError`` naming the file where one is damaged.
    """
    run = RunDirectory(path)
    notes: tuple[str, ...] = ()
    if results is None:
        found = recompute(run, read_results(run.results))
        results, notes = found.results, found.notes
    stages = run.manifest()["stages"]
    known = set(run.methods())
    records = {name: run.records(name).read() for name in results.methods if name in known}
    followed = _followed(records) if run.examples.exists() else None
    return RunData(
        path=path,
        results=results,
        notes=notes,
        followed=followed,
        instances=[] if followed is None else _instances(run, records, followed),
        stages=stages,
        tuning=read_tuning_curve(run),
        figures=_figures(path / ANALYSIS, stages),
        settings=_settings(stages),
    )


def _followed(records: Mapping[str, Sequence[Record]]) -> str | None:
    """DPC where it was run, else the first method with decisions, else prompt tuning, else the first."""
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


def _settings(stages: Mapping[str, Any]) -> MethodSettings:
    try:
        return MethodSettings.model_validate(stages["eval"]["from"]["method"])
    except (KeyError, TypeError, ValueError):
        return MethodSettings()


def _figures(directory: Path, stages: Mapping[str, Any]) -> list[PaperFigure]:
    about = read_json(directory / "analysis.json", "analysis") if (directory / "analysis.json").exists() else {}
    described = about.get("figures", {}) if isinstance(about, dict) else {}
    evaluated = stages.get("eval", {}).get("from", {})
    found = []
    for path in sorted(directory.glob("*.svg")):
        own = described.get(path.stem, {}) if isinstance(described, dict) else {}
        title, finding, caption = (str(own.get(key, "")) for key in ("title", "finding", "caption"))
        source = "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
        title = f"Figure {path.stem}" + (f". {title}" if title else "")
        found.append(PaperFigure(source, title, finding, caption, _made_from(own.get("from"), evaluated)))
    return found


def _made_from(made: Any, evaluated: Mapping[str, Any]) -> str:
    """Which instances a figure shows, and a warning where these are not of the run's present evaluation."""
    if not isinstance(made, dict) or "instances" not in made:
        return ""
    stale = any(name in made and made[name] != evaluated.get(name) for name in _IDENTITY) if evaluated else False
    words = f"Drawn with --instances {made['instances']} --seed {made.get('seed', 0)}."
    return words + (" It shows other answers than this run has now: draw it again with dpc analyze." if stale else "")
