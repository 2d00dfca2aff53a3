"""The plan of a run (``--dry-run``): its stages, their progress, and estimates of what is left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from dpc.errors import UserError
from dpc.methods.method import Method
from dpc.model.device import device_of
from dpc.model.lm import FrozenLM
from dpc.model.notices import notices
from dpc.model.recurrent import keeps_states
from dpc.records.directory import RunDirectory
from dpc.run.act_search import heads_to_try
from dpc.run.data import Data
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
from dpc.run.setup import calibration_records, calibration_stage
from dpc.run.standing import Standing, look_at
from dpc.run.ways import WITHOUT_PROMPT
from dpc.settings import Settings

# Rows of a split whose tokens are counted, at most.
COUNTED = 500
# Instances that figures show, at most.
ANALYZED = 200
_DRAFTS_OFF = "layers with convolution or recurrent states: decoding takes one token a pass, without drafts"
# Share of the answers that calibrating one head changes.
ASSUMED_CHANGED = 0.1
# Until a calibration says how often the trigger fires.
ASSUMED_TRIGGER_RATE = 0.5
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
    """All stages of a run, what they stand on, and how the estimates were made.

    asked: how questions are put (``raw, 0-shot``), and the first test question so, special tokens included.
    """

    recipe: Recipe
    output: Path
    shape: Shape
    speed: Speed
    dtype: str
    stages: tuple[Stage, ...]
    asked: Mapping[str, str]
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


def updates_of(settings: Settings, rows: int) -> int:
    """How many updates a prompt is tuned for."""
    tuning = settings.tuning
    return tuning.steps or tuning.epochs * ceil(rows / (tuning.batch_size * tuning.gradient_accumulation))


def make_plan(prepared: Prepared, output: Path) -> Plan:
    """The plan of ``dpc run`` with this recipe in this folder. Measures the device's speed, and nothing else.

    Raises ``UserError`` where a stage in the folder was begun from something else.
    """
    recipe, lm = prepared.recipe, prepared.outline
    device = device_of(recipe.device)
    shape = Shape.of(lm)
    speed = measure_speed(device, lm.dtype)
    lengths = {split: _lengths(lm, data, recipe) for split, data in prepared.splits.items()}
    if prepared.shots.rows:
        lengths[WITHOUT_PROMPT] = _lengths(prepared.alone, prepared.splits["test"], recipe)
    stages: list[Stage] = []
    for seed, path in recipe.directories(output).items():
        settings = recipe.settings_of(seed)
        standing = look_at(RunDirectory(path), prepared, settings)
        stages += _Estimates(shape, speed, lengths, settings, _max_new_tokens(recipe, prepared), seed).stages(
            recipe, standing
        )
    dtype = str(lm.dtype).removeprefix("torch.")
    states = (_DRAFTS_OFF,) if keeps_states(lm.model) else ()
    notes = (*_notes(recipe, shape, speed, stages), *states, *notices(lm), *prepared.notes)
    return Plan(recipe, output, shape, speed, dtype, tuple(stages), _asked(prepared), notes)


def _asked(prepared: Prepared) -> dict[str, str]:
    test, recipe = prepared.splits["test"], prepared.recipe
    ways = [prepared.outline] * recipe.tunes + [prepared.alone] * recipe.asks_alone
    text = test.task.prompt(test.examples[0])
    return {str(lm.asking): lm.decode(lm.encode(text), special=True) for lm in ways}


def _max_new_tokens(recipe: Recipe, prepared: Prepared) -> int:
    return recipe.settings.decoding.max_new_tokens or prepared.splits["test"].task.max_new_tokens


def _lengths(lm: FrozenLM, data: Data, recipe: Recipe) -> Lengths:
    max_new_tokens = recipe.settings.decoding.max_new_tokens or data.task.max_new_tokens
    by_size = sorted(data.examples, key=lambda example: len(data.task.prompt(example)))
    # Every so many of them, the longest included, whatever their order in the file.
    counted = by_size[:: -ceil(len(by_size) / COUNTED)]
    questions = [len(lm.encode(data.task.prompt(example))) for example in counted]
    try:
        answers = [len(lm.encode_target(data.task.target(example))) for example in counted]
    except UserError:  # Rows to be answered need no gold text.
        answers = []
    if data.split != "train":
        answers = [min(answer, max_new_tokens) for answer in answers]
    return Lengths.of(len(by_size), questions, answers, max_new_tokens)


@dataclass(frozen=True, slots=True)
class _Estimates:
    shape: Shape
    speed: Speed
    lengths: Mapping[str, Lengths]
    settings: Settings
    max_new_tokens: int
    seed: int

    def stages(self, recipe: Recipe, standing: Standing) -> Iterator[Stage]:
        """In the order in which they are done."""
        if recipe.tunes:
            yield self._tune(standing)
        for method in recipe.calibrates:
            trigger, dev = method.calibrated or "", self.lengths["dev"]
            made = standing.records.get(calibration_records(trigger), 0)
            done = dev.rows if trigger in standing.calibrated else min(made, dev.rows - 1)
            yield self._stage(calibration_stage(trigger), dev, done, self._two_passes(dev, 1.0))
        if recipe.searches_heads:
            yield self._search(standing)
        for method in recipe.chosen:
            alone = "prompt" not in method.requires
            test = self.lengths.get(WITHOUT_PROMPT if alone else "test", self.lengths["test"])
            work = self._two_passes(test, self._rate(method, standing), 0 if alone else None)
            yield self._stage(method.name, test, standing.records.get(method.name, 0), work, method.passes)
        if recipe.draws_figures:
            rows = self.lengths["test"].first(ANALYZED)
            work = tracing(self.shape, self.speed, rows, self.settings.tuning.length, 1)
            length, decoding = self.settings.tuning.length, self.settings.decoding
            memory = tracing_bytes(self.shape, rows, length, self.max_new_tokens, decoding)
            done = rows.rows if standing.analyzed else 0
            yield Stage("analyze", self.seed, "instances", done, rows.rows, work * (not done), memory)

    def _rate(self, method: Method, standing: Standing) -> float:
        """Share of the rows that are answered again."""
        if method.trigger is None:
            return 0.0
        if method.trigger.threshold_from == "none":
            return 1.0
        return ASSUMED_TRIGGER_RATE if standing.trigger_rate is None else standing.trigger_rate

    def _stage(self, name: str, rows: Lengths, done: int, work: Work, passes: int = 2) -> Stage:
        decoding, length = self.settings.decoding, self.settings.tuning.length
        memory = decoding_bytes(self.shape, rows, length, self.max_new_tokens, decoding)
        if passes == 2:
            memory += tracing_bytes(self.shape, rows, length, self.max_new_tokens, decoding)
        left = max(0, rows.rows - done) / max(1, rows.rows)
        return Stage(name, self.seed, "rows", done, rows.rows, work * left, memory)

    def _tune(self, standing: Standing) -> Stage:
        s, train, dev = self.settings, self.lengths["train"], self.lengths["dev"]
        updates = updates_of(s, train.rows)
        done = updates if standing.tuned else min(standing.updates, updates - 1)
        work = tuning(self.shape, self.speed, train, dev, updates - done, s.tuning, s.decoding)
        longest = train.longest + ceil(train.answer)
        memory = tuning_bytes(self.shape, longest, s.tuning)
        return Stage("tune", self.seed, "updates", done, updates, work, memory)

    def _search(self, standing: Standing) -> Stage:
        """ACT's heads: each checks all answers in one pass, and answers some of them again."""
        decoding, length, heads = self.settings.decoding, self.settings.tuning.length, self.shape.heads
        rows = self.lengths["dev"].first(self.settings.act.rows)
        total = len(heads_to_try(range(self.shape.softmax), heads, self.settings.act))
        done = total if standing.searched else min(standing.heads, total - 1)
        first = generation(self.shape, self.speed, rows, length, decoding)
        check = reading(self.shape, self.speed, rows, length, decoding.batch_size)
        memory = decoding_bytes(self.shape, rows, length, self.max_new_tokens, decoding)
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
    if recipe.calibrates:
        notes.append(f"second passes: as often as the calibration says, before it {ASSUMED_TRIGGER_RATE:.0%} of rows")
    if recipe.searches_heads:
        notes.append(f"heads: each is assumed to change {ASSUMED_CHANGED:.0%} of the answers")
    peak = shape.weight_bytes + max((stage.memory or 0 for stage in stages if stage.done < stage.total), default=0)
    if peak > speed.memory:
        notes.append(
            f"memory: {peak / GIB:.1f} GiB is more than the {speed.memory / GIB:.1f} GiB here; take smaller "
            "tuning.batch_size, decoding.batch_size or decoding.saliency_batch_size, or another device"
        )
    return tuple(notes)
