"""The paper's figures of a run: measured, drawn, kept with their data, and said on the terminal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from rich.table import Table

from dpc.analysis.charts import Columns
from dpc.analysis.collect import Collector, recorded_difference
from dpc.analysis.figures import FIGURES, Figure, Material, MissingError, build_figure
from dpc.analysis.instances import Evaluation, Sample, draw, read_evaluation
from dpc.analysis.plots import save_figure
from dpc.analysis.statistics import changed_flow
from dpc.analysis.store import Store
from dpc.cli.stages import command_line, progress_bars, screen, table
from dpc.errors import UserError
from dpc.files import read_json, write_atomically, write_json
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt, load_adapter
from dpc.records.directory import RunDirectory, source_state, versions
from dpc.tasks import task_of_run

# A measured S_late this far from the recorded one, as a share, is no rounding any more.
_FAR = 0.05
Loader = Callable[[str, str, str | None], FrozenLM]
"""Loads a model: its name, the type it computes in, and its revision."""


@dataclass(frozen=True, slots=True)
class Folder:
    """``RUN/analysis``: ``2a.svg``, ``.pdf``, ``.parquet`` and so on, and what they were made from."""

    path: Path

    @property
    def description(self) -> Path:
        """What every figure says, and what it was made from."""
        return self.path / "analysis.json"

    def kept(self, made_from: Mapping[str, Any]) -> dict[str, Any]:
        """Figures that were made from the same things; those made from others go."""
        try:
            known = read_json(self.description, "analysis")
        except UserError:
            known = {}
        if isinstance(known, dict) and known.get("from") == made_from and isinstance(known.get("figures"), dict):
            return {name: known["figures"][name] for name in FIGURES if name in known["figures"]}
        for name in FIGURES:
            self.remove(name)
        return {}

    def remove(self, name: str) -> None:
        """Remove a figure that is not of this run any more."""
        for suffix in ("svg", "pdf", "parquet"):
            (self.path / f"{name}.{suffix}").unlink(missing_ok=True)

    def write(self, name: str, figure: Figure) -> dict[str, Any]:
        """Write a figure and its data; returns what is said of it."""
        paths = [*save_figure(figure.chart, self.path / name), self.path / f"{name}.parquet"]
        write_table(paths[-1], figure.chart.columns())
        return {
            "title": figure.title,
            "finding": figure.finding,
            "caption": figure.caption,
            "files": [path.name for path in paths],
            "numbers": figure.numbers,
        }


def figure_names(text: str) -> list[str]:
    """Names of a comma-separated list, or ``all``. Raises ``UserError`` for one that is no figure."""
    names = list(FIGURES) if text.strip() == "all" else [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in FIGURES]:
        raise UserError(f"--figures {unknown[0]}: expected some of {', '.join(FIGURES)}, or all")
    return [name for name in FIGURES if name in names]


def analyze_with_progress(
    run: RunDirectory,
    load: Loader,
    *,
    names: Sequence[str] = tuple(FIGURES),
    instances: int = 100,
    seed: int = 0,
    prompt_directory: Path | None = None,
    dtype: str | None = None,
    task: str | None = None,
) -> dict[str, Any]:
    """Make figures of a run that was evaluated with DPC; returns what ``analysis.json`` holds.

    What was measured before on the same things is not measured again, and the model not loaded where nothing is.
    Raises ``UserError`` where the run has no records of DPC, or model or prompt are not there or not the run's.
    """
    evaluation = read_evaluation(run)
    sample = draw(evaluation.instances, instances, seed)
    described = evaluation.described["model"]
    known = task_of_run(evaluation.described["data"]["task"], task, run.path)
    folder, kind = Folder(run.path / "analysis"), dtype or str(described["dtype"])
    revision = run.manifest().get("config", {}).get("revision")

    def load_both() -> tuple[FrozenLM, SoftPrompt]:
        directory = prompt_directory or run.prompt
        if not directory.exists():
            raise UserError(
                f"{run.prompt}: no prompt there; pass --prompt DIR, the one that the run was evaluated with"
            )
        lm = load(str(described["name"]), kind, revision)
        return lm, load_adapter(lm, directory)

    collector = Collector(evaluation, known, kind, Store(folder.path / "measured"), load_both)
    with progress_bars() as bars:
        row = bars.add_task("analyze", total=len(sample.each()), note="")

        def show(done: int, total: int) -> None:
            bars.start()
            bars.update(row, total=total, completed=done, note="instances measured")

        material = collector.material(sample, show)
    made_from = _made_from(evaluation, kind, instances, seed)
    found = folder.kept(made_from)
    missing = {}
    for name in names:
        try:
            found[name] = folder.write(name, build_figure(name, material))
        except MissingError as error:
            folder.remove(name)
            found.pop(name, None)
            missing[name] = str(error)
    write_table(folder.path / "instances.parquet", instance_columns(material))
    said = _description(run, evaluation, sample, material, made_from, found, missing)
    write_json(folder.description, said)
    show_findings(said, names, folder.path)
    return said


def _made_from(evaluation: Evaluation, dtype: str, instances: int, seed: int) -> dict[str, Any]:
    keys = ("model", "prompt_sha256", "tau", "data", "method")
    described = {key: evaluation.described[key] for key in keys}
    answers = sorted([i.example.id, i.correct, *i.rationale] for i in evaluation.instances)
    digest = hashlib.sha256(json.dumps(answers).encode()).hexdigest()
    return {**described, "dtype": dtype, "instances": instances, "seed": seed, "answers_sha256": digest}


def _description(
    run: RunDirectory,
    evaluation: Evaluation,
    sample: Sample,
    material: Material,
    made_from: Mapping[str, Any],
    figures: Mapping[str, Any],
    missing: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "format": 1,
        "from": made_from,
        "instances": {
            "judged": len(evaluation.instances),
            "too_short": evaluation.unjudged,
            "drawn": len(sample.drawn),
            "right": len(sample.right),
            "wrong": len(sample.wrong),
        },
        "difference_from_recorded_late_flow": recorded_difference(material),
        "figures": {name: figures[name] for name in FIGURES if name in figures},
        "not_drawn": dict(missing),
        "made_by": {"command": run.command or command_line(), "versions": versions(), "source": source_state()},
    }


def write_table(path: Path, columns: Columns) -> None:
    """Write columns of equal length as parquet. Raises ``UserError`` where the file can't be written."""
    content = BytesIO()
    parquet.write_table(pa.table(columns), content)
    write_atomically(path, content.getvalue())


def instance_columns(material: Material) -> Columns:
    """A row an instance that was measured: every number that figures 4a to 4c count, and which of them count it."""
    groups = {"drawn": material.drawn, "right": material.right, "wrong": material.wrong}
    names = {group: {i.example.id for i, _ in members} for group, members in groups.items()}
    each = {i.example.id: (i, f) for members in groups.values() for i, f in members}
    flows = [flow for _, flow in each.values()]
    drawn = changed_flow([flow for _, flow in material.drawn], material.tau)
    order = [instance.example.id for instance, _ in material.drawn]
    changed = {definition: dict(zip(order, values.tolist(), strict=True)) for definition, values in drawn.items()}
    return {
        "example_id": list(each),
        "correct": [instance.correct for instance, _ in each.values()],
        **{f"in_{group}": [name in ids for name in each] for group, ids in names.items()},
        "late_flow": [float(flow.late_flow) for flow in flows],
        "recorded_late_flow": [instance.late_flow for instance, _ in each.values()],
        "early_flow": [float(flow.beta) for flow in flows],
        "R": [float(flow.ratio) for flow in flows],
        "concentration": [float(flow.concentration) for flow in flows],
        "accumulated": [bool(flow.concentration > material.k) for flow in flows],
        "profile": [flow.profile.tolist() for flow in flows],
        "to_question": [flow.to_question.tolist() for flow in flows],
        "to_rationale": [flow.to_rationale.tolist() for flow in flows],
        "changed": [{d: states.get(name) for d, states in changed.items()} for name in each],
    }


def show_findings(said: Mapping[str, Any], names: Sequence[str], folder: Path) -> None:
    """Print what each figure says."""
    rows = Table(show_edge=False, pad_edge=False, box=None)
    rows.add_column("figure", no_wrap=True)
    rows.add_column("what it says", overflow="fold")
    for name in names:
        figure = said["figures"].get(name)
        rows.add_row(name, figure["finding"] if figure else f"not drawn: {said['not_drawn'][name]}")
    table.print(rows, markup=False, highlight=False)
    if (difference := said["difference_from_recorded_late_flow"]) > _FAR:
        screen.print(
            f"note: measured S_late differ by {difference:.0%} from those that the run recorded; were its questions "
            "written otherwise, or its numbers in another type?"
        )
    table.print(f"figures and data: {folder}", soft_wrap=True, markup=False, highlight=False)
