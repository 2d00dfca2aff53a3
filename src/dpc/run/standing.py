"""Progress of a run directory with a recipe, read from its description files without a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpc.files import read_json
from dpc.methods.method import Setup
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import PROVENANCE_FILE
from dpc.prompt.tuning import HISTORY_FILE
from dpc.records.directory import RunDirectory
from dpc.run.act_search import SEARCH, search_inputs
from dpc.run.inputs import CHOSEN, calibration_inputs, evaluation_inputs, tuning_inputs, with_more_rows
from dpc.run.preflight import Prepared
from dpc.run.setup import calibration_file, calibration_stage, trigger_rate
from dpc.run.ways import WITH_PROMPT, WITHOUT_PROMPT
from dpc.settings import Settings


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a run directory is.

    updates: of its prompt. heads: tried for ACT. calibrated: names of the triggers whose threshold is chosen. records:
    lines of each record file. trigger_rate: of the calibrated DPC, None where it is not known yet.
    """

    updates: int
    heads: int
    tuned: bool
    calibrated: frozenset[str]
    searched: bool
    analyzed: bool
    records: Mapping[str, int]
    trigger_rate: float | None


def look_at(run: RunDirectory, prepared: Prepared, settings: Settings) -> Standing:
    """How far ``run`` is with this recipe. Nothing is loaded but its descriptions.

    Raises ``UserError`` where one of its stages was begun from something else.
    """
    stages: dict[str, Any] = run.manifest()["stages"]
    lm, splits, recipe = prepared.outline, prepared.splits, prepared.recipe
    sha = _prompt_sha256(run)
    if recipe.tunes and "tune" in stages:
        known = stages["tune"]["from"]
        run.refuse_other("tune", known, tuning_inputs(_as_begun(lm, known), splits["train"], splits["dev"], settings))
    for method in recipe.calibrates:
        stage = calibration_stage(method.calibrated or "")
        if stage in stages and sha:
            known = stages[stage]["from"]
            wanted = calibration_inputs(_as_begun(lm, known), sha, splits["dev"], settings, method)
            run.refuse_other(stage, known, wanted)
    if recipe.searches_heads and "act" in stages and sha:
        known = stages["act"]["from"]
        run.refuse_other("act", known, search_inputs(_as_begun(lm, known), sha, splits["dev"], settings))
    if "eval" in stages:
        known = with_more_rows(stages["eval"]["from"], splits["test"])
        asked = {WITH_PROMPT: lm} if recipe.tunes else {}
        asked |= {WITHOUT_PROMPT: prepared.alone} if recipe.asks_alone else {}
        wanted = evaluation_inputs(_as_begun(lm, known), Setup(), splits["test"], settings, asked)
        later = {name: known.get(name) for name in CHOSEN if None in (known.get(name), wanted[name])}
        run.refuse_other("eval", known, wanted | later)
    triggers = [method.calibrated or "" for method in recipe.calibrates]
    calibrated = frozenset(name for name in triggers if run.is_done(calibration_stage(name)))
    flow = read_json(run.prompt / calibration_file("flow"), "calibration") if "flow" in calibrated else None
    return Standing(
        updates=_lines(run.prompt / HISTORY_FILE),
        heads=_lines(run.path / SEARCH),
        tuned=run.is_done("tune"),
        calibrated=calibrated,
        searched=run.is_done("act"),
        analyzed=run.is_done("analyze"),
        records={path.stem: _lines(path) for path in (run.path / "records").glob("*.jsonl")},
        trigger_rate=None if flow is None else trigger_rate(flow),
    )


def _as_begun(lm: FrozenLM, known: Mapping[str, Any]) -> FrozenLM:
    """The outline with the hash of weights that a stage was begun with: only the weights themselves can tell."""
    return replace(lm, revision=known.get("model", {}).get("revision", ""))


def _prompt_sha256(run: RunDirectory) -> str | None:
    path = run.prompt / PROVENANCE_FILE
    return str(read_json(path, "prompt description").get("prompt_sha256")) if path.exists() else None


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
