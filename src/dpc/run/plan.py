"""What a run will do, before it does it: its stages, how far each is, and what is left of it in tokens and seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from dpc.errors import UserError
from dpc.files import read_json
from dpc.methods import use_calibration
from dpc.methods.base import Setup
from dpc.model.lm import FrozenLM, device_of
from dpc.prompt.soft_prompt import PROVENANCE_FILE
from dpc.prompt.tuning import HISTORY_FILE
from dpc.records.directory import RunDirectory
from dpc.run.act_search import SEARCH, heads_to_try, search_inputs
from dpc.run.estimate import (
    EFFICIENCY,
    OPERATIONS_A_BLOCK,
    Lengths,
    Shape,
    Speed,
    Work,
    decoding_bytes,
    generation,
    measure_speed,
    reading,
    tracing,
    tracing_bytes,
    tuning,
    tuning_bytes,
)
from dpc.run.preflight import Prepared
from dpc.run.recipes import Recipe
from dpc.run.stages import (
    CALIBRATION,
    CHOSEN,
    Data,
    calibration_inputs,
    evaluation_inputs,
    needs_prompt,
    trigger_rate,
    tuning_inputs,
)
from dpc.settings import Settings

# Rows of a split whose tokens are counted, at most.
COUNTED = 500
# Instances that figures show, at most.
ANALYZED = 200
# Share of the answers that calibrating one head changes.
ASSUMED_CHANGED = 0.1
# Until a calibration says how often the trigger fires.
ASSUMED_TRIGGER_RATE = 0.5
ONE_PASS = ("pretrained", "prompt_tuning", "act")
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a run: ``done`` of ``total`` (rows, or updates of a prompt), and what the rest is estimated to cost.

    memory: bytes beside the weights at its peak; None where it was not estimated.
    """

    name: str
    seed: int
    unit: str
    done: int
    total: int
    work: Work
    memory: int | None

    @property
    def state(self) -> str:
        """How far it is, in words."""
        return "done" if self.done >= self.total else "begun" if self.done else "to do"


@dataclass(frozen=True, slots=True)
class Plan:
    """All stages of a run, what they stand on, and how the estimates were made."""

    recipe: Recipe
    output: Path
    shape: Shape
    speed: Speed
    dtype: str
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]

    @property
    def left(self) -> Work:
        """What is left of all stages."""
        return sum((stage.work for stage in self.stages), Work())

    @property
    def memory(self) -> int:
        """Bytes at the peak of what is left, weights included."""
        peaks = [stage.memory or 0 for stage in self.stages if stage.done < stage.total]
        return self.shape.weight_bytes + max(peaks, default=0)


def seed_directories(recipe: Recipe, output: Path) -> dict[int, Path]:
    """The run directory of each tuning seed: the folder itself for one seed, ``seed-N`` in it for several."""
    first = recipe.settings.tuning.seed
    if recipe.seeds == 1:
        return {first: output}
    return {seed: output / f"seed-{seed}" for seed in range(first, first + recipe.seeds)}


def with_seed(settings: Settings, seed: int) -> Settings:
    """The settings with another seed of tuning."""
    return settings.model_copy(update={"tuning": settings.tuning.model_copy(update={"seed": seed})})


def draws_figures(recipe: Recipe) -> bool:
    """Whether figures are drawn: they show what DPC looks at."""
    return recipe.analyze and "dpc" in recipe.methods


def updates_of(settings: Settings, rows: int) -> int:
    """How many updates a prompt is tuned for."""
    tuning = settings.tuning
    return tuning.steps or tuning.epochs * ceil(rows / (tuning.batch_size * tuning.gradient_accumulation))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run directory is: updates of its prompt, heads tried, records by name; the trigger's rate if known."""

    updates: int
    heads: int
    tuned: bool
    calibrated: bool
    searched: bool
    analyzed: bool
    records: Mapping[str, int]
    trigger_rate: float | None


def look_at(run: RunDirectory, prepared: Prepared, settings: Settings) -> Progress:
    """How far ``run`` is with this recipe. Nothing is loaded but its descriptions.

    Raises ``UserError`` where one of its stages was begun from something else.
    """
    stages: dict[str, Any] = run.manifest()["stages"]
    lm, splits, methods = prepared.outline, prepared.splits, prepared.recipe.methods
    sha = _prompt_sha256(run)
    if needs_prompt(methods) and "tune" in stages:
        known = stages["tune"]["from"]
        run.refuse_other("tune", known, tuning_inputs(_as_begun(lm, known), splits["train"], splits["dev"], settings))
    if use_calibration(methods) and "calibrate" in stages and sha:
        known = stages["calibrate"]["from"]
        run.refuse_other("calibrate", known, calibration_inputs(_as_begun(lm, known), sha, splits["dev"], settings))
    if "act" in methods and "act" in stages and sha:
        known = stages["act"]["from"]
        run.refuse_other("act", known, search_inputs(_as_begun(lm, known), sha, splits["dev"], settings))
    if "eval" in stages:
        known = stages["eval"]["from"]
        wanted = evaluation_inputs(_as_begun(lm, known), Setup(), splits["test"], settings)
        run.refuse_other("eval", known, wanted | {name: known.get(name) for name in CHOSEN})
    calibrated = run.is_done("calibrate")
    return Progress(
        updates=_lines(run.prompt / HISTORY_FILE),
        heads=_lines(run.path / SEARCH),
        tuned=run.is_done("tune"),
        calibrated=calibrated,
        searched=run.is_done("act"),
        analyzed=run.is_done("analyze"),
        records={path.stem: _lines(path) for path in (run.path / "records").glob("*.jsonl")},
        trigger_rate=trigger_rate(read_json(run.prompt / CALIBRATION, "calibration")) if calibrated else None,
    )


def _as_begun(lm: FrozenLM, known: Mapping[str, Any]) -> FrozenLM:
    """The outline with the hash of weights that a stage was begun with: only the weights themselves can tell."""
    return replace(lm, revision=known.get("model", {}).get("revision", ""))


def _prompt_sha256(run: RunDirectory) -> str | None:
    path = run.prompt / PROVENANCE_FILE
    return str(read_json(path, "prompt description").get("prompt_sha256")) if path.exists() else None


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def make_plan(prepared: Prepared, output: Path) -> Plan:
    """The plan of ``dpc run`` with this recipe in this folder. Measures the device's speed, and nothing else.

    Raises ``UserError`` where a stage in the folder was begun from something else.
    """
    recipe, lm = prepared.recipe, prepared.outline
    device = device_of(recipe.device)
    shape = Shape.of(lm)
    speed = measure_speed(device, lm.dtype)
    lengths = {split: _lengths(lm, data, recipe) for split, data in prepared.splits.items()}
    stages: list[Stage] = []
    for seed, path in seed_directories(recipe, output).items():
        settings = with_seed(recipe.settings, seed)
        progress = look_at(RunDirectory(path), prepared, settings)
        stages += _Estimates(shape, speed, lengths, settings, _room(recipe, prepared), seed).stages(recipe, progress)
    dtype = str(lm.dtype).removeprefix("torch.")
    return Plan(recipe, output, shape, speed, dtype, tuple(stages), _notes(recipe, shape, speed, stages))


def _room(recipe: Recipe, prepared: Prepared) -> int:
    return recipe.settings.decoding.max_new_tokens or prepared.splits["test"].task.max_new_tokens


def _lengths(lm: FrozenLM, data: Data, recipe: Recipe) -> Lengths:
    room = recipe.settings.decoding.max_new_tokens or data.task.max_new_tokens
    by_size = sorted(data.examples, key=lambda example: len(data.task.prompt(example)))
    # Every so many of them, the longest included, whatever their order in the file.
    counted = by_size[:: -ceil(len(by_size) / COUNTED)]
    questions = [len(lm.encode(data.task.prompt(example))) for example in counted]
    try:
        answers = [len(lm.encode_continuation(data.task.target(example))) + 1 for example in counted]
    except UserError:  # Rows to be answered need no gold text.
        answers = []
    if data.split != "train":
        answers = [min(answer, room) for answer in answers]
    return Lengths.of(len(by_size), questions, answers, room)


@dataclass(frozen=True, slots=True)
class _Estimates:
    shape: Shape
    speed: Speed
    lengths: Mapping[str, Lengths]
    settings: Settings
    room: int
    seed: int

    def stages(self, recipe: Recipe, progress: Progress) -> Iterator[Stage]:
        """In the order in which they are done."""
        if needs_prompt(recipe.methods):
            yield self._tune(progress)
        if use_calibration(recipe.methods):
            dev = self.lengths["dev"]
            made = progress.records.get("calibration", 0)
            done = dev.rows if progress.calibrated else min(made, dev.rows - 1)
            yield self._stage("calibrate", dev, done, self._two_passes(dev, 1.0))
        if "act" in recipe.methods:
            yield self._search(progress)
        for name in recipe.methods:
            test = self.lengths["test"]
            rate = 0.0 if name in ONE_PASS else 1.0 if name == "all_corruption" else self._rate(progress)
            work = self._two_passes(test, rate, prompt=0 if name == "pretrained" else None)
            yield self._stage(name, test, progress.records.get(name, 0), work)
        if draws_figures(recipe):
            rows = self.lengths["test"].first(ANALYZED)
            work = tracing(self.shape, self.speed, rows, self.settings.tuning.length, 1)
            memory = tracing_bytes(self.shape, rows, self.settings.tuning.length, self.room, self.settings.decoding)
            done = rows.rows if progress.analyzed else 0
            yield Stage("analyze", self.seed, "instances", done, rows.rows, work * (not done), memory)

    def _rate(self, progress: Progress) -> float:
        return ASSUMED_TRIGGER_RATE if progress.trigger_rate is None else progress.trigger_rate

    def _stage(self, name: str, rows: Lengths, done: int, work: Work) -> Stage:
        decoding, length = self.settings.decoding, self.settings.tuning.length
        memory = decoding_bytes(self.shape, rows, length, self.room, decoding)
        if name not in ONE_PASS:
            memory += tracing_bytes(self.shape, rows, length, self.room, decoding)
        left = max(0, rows.rows - done) / max(1, rows.rows)
        return Stage(name, self.seed, "rows", done, rows.rows, work * left, memory)

    def _tune(self, progress: Progress) -> Stage:
        s, train, dev = self.settings, self.lengths["train"], self.lengths["dev"]
        updates = updates_of(s, train.rows)
        done = updates if progress.tuned else min(progress.updates, updates - 1)
        work = tuning(self.shape, self.speed, train, dev, updates - done, s.tuning, s.decoding)
        longest = train.longest + ceil(train.answer)
        memory = tuning_bytes(self.shape, longest, s.tuning)
        return Stage("tune", self.seed, "updates", done, updates, work, memory)

    def _search(self, progress: Progress) -> Stage:
        """ACT's heads: each checks all answers in one pass, and answers some of them again."""
        decoding, length, heads = self.settings.decoding, self.settings.tuning.length, self.shape.heads
        rows = self.lengths["dev"].first(self.settings.act.rows)
        total = len(heads_to_try(self.shape.layers, heads, self.settings.act))
        done = total if progress.searched else min(progress.heads, total - 1)
        first = generation(self.shape, self.speed, rows, length, decoding)
        check = reading(self.shape, self.speed, rows, length, decoding.batch_size)
        memory = decoding_bytes(self.shape, rows, length, self.room, decoding)
        return Stage(
            "search heads", self.seed, "heads", done, total, (check + first * ASSUMED_CHANGED) * (total - done), memory
        )

    def _two_passes(self, rows: Lengths, rate: float, prompt: int | None = None) -> Work:
        """Answer all rows; trace the share ``rate`` of them and answer those again."""
        length = self.settings.tuning.length if prompt is None else prompt
        decoding = self.settings.decoding
        first = generation(self.shape, self.speed, rows, length, decoding)
        traced = tracing(self.shape, self.speed, rows, length, decoding.saliency_batch_size)
        return first + (traced + first) * rate


def _notes(recipe: Recipe, shape: Shape, speed: Speed, stages: Sequence[Stage]) -> tuple[str, ...]:
    notes = [
        f"estimates, not measurements: tokens from up to {COUNTED} rows a split, answers as long as the gold ones",
        f"time: {speed.flops / 1e12:.3g} TFLOP/s and {speed.bytes / 1e9:.3g} GB/s, measured just now by one matrix "
        f"product and one copy on {speed.device}, of which passes are assumed to reach {EFFICIENCY:.0%}, and "
        f"{OPERATIONS_A_BLOCK} operations a block of {speed.launch * 1e6:.2g} µs each; drafts, which save passes, are "
        "not counted on",
    ]
    if use_calibration(recipe.methods):
        notes.append(f"second passes: as often as the calibration says, before it {ASSUMED_TRIGGER_RATE:.0%} of rows")
    if "act" in recipe.methods:
        notes.append(f"heads: each is assumed to change {ASSUMED_CHANGED:.0%} of the answers")
    peak = shape.weight_bytes + max((stage.memory or 0 for stage in stages if stage.done < stage.total), default=0)
    if peak > speed.memory:
        notes.append(
            f"memory: {peak / GIB:.1f} GiB is more than the {speed.memory / GIB:.1f} GiB here; take smaller "
            "tuning.batch_size, decoding.batch_size or decoding.saliency_batch_size, or another device"
        )
    return tuple(notes)
