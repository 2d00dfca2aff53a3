"""The paper's figures of a run: instances are measured, figures drawn and kept with their data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpc.analysis.aggregates import changed_flow
from dpc.analysis.charts import Columns
from dpc.analysis.collect import Collector, recorded_difference
from dpc.analysis.figures import FIGURES, Material, MissingError, build_figure
from dpc.analysis.folder import Folder, write_table
from dpc.analysis.instances import Evaluation, Sample, draw, read_evaluation
from dpc.analysis.store import Store
from dpc.errors import UserError
from dpc.files import write_json
from dpc.model.lm import FrozenLM
from dpc.prompt.asked import asked_with
from dpc.prompt.soft_prompt import SoftPrompt, load_adapter
from dpc.records.directory import RunDirectory, source_state, versions
from dpc.tasks import task_of_run

Loader = Callable[[str, str, str | None, str | None, str | None], FrozenLM]
"""Loads a model: its name, the type it computes in, its revision, how it is quantized, and its adapter."""


def figure_names(text: str) -> list[str]:
    """Names of a comma-separated list, or ``all``. Raises ``UserError`` for a name that is no figure."""
    names = list(FIGURES) if text.strip() == "all" else [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in FIGURES]:
        raise UserError(f"--figures {unknown[0]}: expected some of {', '.join(FIGURES)}, or all")
    return [name for name in FIGURES if name in names]


def analyze_run(
    run: RunDirectory,
    load: Loader,
    *,
    names: Sequence[str] = tuple(FIGURES),
    instances: int = 100,
    seed: int = 0,
    prompt_directory: Path | None = None,
    dtype: str | None = None,
    task: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Draw figures of a run that was evaluated with DPC; returns the content of ``analysis.json``.

    Measurements are kept: what was measured before is not measured again, and ``load`` is called only if something has
    to be. Other figures in the folder stay, whatever settings they were drawn with, and so does a figure that cannot be
    drawn with these.

    Args:
        run: the run directory.
        load: loads the run's model.
        names: figures to draw, some of ``FIGURES``.
        instances: how many are drawn of all; and half as many of the right and of the wrong ones.
        seed: of the sample.
        prompt_directory: folder of the run's prompt; None: the run's own.
        dtype: type that the model computes in; None: the run's.
        task: the run's benchmark where it is a Python file; None: as the run says.
        progress: called with the number of measured instances and of all.

    Raises:
        UserError: where the run has no records of DPC, model or prompt are missing or not those of the run, or another
            process writes the run.
    """
    evaluation = read_evaluation(run)
    sample = draw(evaluation.instances, instances, seed)
    known = task_of_run(evaluation.described["data"]["task"], task, run.path)
    kind = dtype or str(evaluation.described["model"]["dtype"])
    folder = Folder(run.path / "analysis")
    with run.lock():
        load_both = _loader(run, evaluation, load, kind, prompt_directory)
        collector = Collector(evaluation, known, kind, Store(folder.path / "measured"), load_both)
        material = collector.material(sample, progress)
        made_from = _made_from(evaluation, kind, instances, seed)
        figures, not_drawn = _draw(folder, names, material, made_from)
        write_table(folder.path / "instances.parquet", instance_columns(material))
        described = {
            "format": 2,
            "from": made_from,
            "instances": _counts(evaluation, sample),
            "difference_from_recorded_late_flow": recorded_difference(material),
            "figures": {name: figures[name] for name in FIGURES if name in figures},
            "not_drawn": not_drawn,
            "made_by": {"command": run.command, "versions": versions(), "source": source_state()},
        }
        write_json(folder.description, described)
    return described


def _draw(
    folder: Folder, names: Sequence[str], material: Material, made_from: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Descriptions of all figures in the folder after ``names`` were drawn, and why some of these were not."""
    figures, not_drawn = folder.figures(), {}
    for name in names:
        try:
            figures[name] = folder.write(name, build_figure(name, material), made_from)
        except MissingError as error:
            not_drawn[name] = str(error)
    return figures, not_drawn


def _loader(
    run: RunDirectory, evaluation: Evaluation, load: Loader, dtype: str, prompt_directory: Path | None
) -> Callable[[], tuple[FrozenLM, SoftPrompt]]:
    described = evaluation.described["model"]
    revision = run.manifest().get("config", {}).get("revision")

    def load_both() -> tuple[FrozenLM, SoftPrompt]:
        directory = prompt_directory or run.prompt
        if not directory.exists():
            raise UserError(
                f"{run.prompt}: no prompt there; pass --prompt DIR, the one that the run was evaluated with"
            )
        lm = load(str(described["name"]), dtype, revision, described.get("quantized"), described.get("adapter"))
        prompt = load_adapter(lm, directory)
        asked = evaluation.described.get("asked_with_prompt") or {}
        return asked_with(lm, prompt, "on" if asked.get("format") == "chat" else "off"), prompt

    return load_both


def _made_from(evaluation: Evaluation, dtype: str, instances: int, seed: int) -> dict[str, Any]:
    """Everything that a figure depends on."""
    keys = ("model", "prompt_sha256", "tau", "data", "method")
    described = {key: evaluation.described[key] for key in keys}
    answers = sorted([i.example.id, i.correct, *i.rationale] for i in evaluation.instances)
    digest = hashlib.sha256(json.dumps(answers).encode()).hexdigest()
    return {**described, "dtype": dtype, "instances": instances, "seed": seed, "answers_sha256": digest}


def _counts(evaluation: Evaluation, sample: Sample) -> dict[str, int]:
    return {
        "judged": len(evaluation.instances),
        "too_short": evaluation.unjudged,
        "drawn": len(sample.drawn),
        "right": len(sample.right),
        "wrong": len(sample.wrong),
    }


def instance_columns(material: Material) -> Columns:
    """A row per measured instance: every number that figures 4a to 4c use, and which of them use the instance."""
    groups = {"drawn": material.drawn, "right": material.right, "wrong": material.wrong}
    names = {group: {i.example.id for i, _ in members} for group, members in groups.items()}
    each = {i.example.id: (i, f) for members in groups.values() for i, f in members}
    flows = [flow for _, flow in each.values()]
    drawn: Mapping[str, Any] = changed_flow([flow for _, flow in material.drawn], material.tau)
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
