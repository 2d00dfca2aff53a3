"""Checks before any weight is loaded. All mistakes are collected and shown together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from dpc.engine import Request, check_fits
from dpc.errors import UserError
from dpc.model.asking import RAW
from dpc.model.lm import FrozenLM
from dpc.model.loading import load_outline
from dpc.prompt.asked import asked_alone, with_shots
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.prompt.target_loss import encode_rows
from dpc.run.data import Data, check_near_duplicates, init_text, load_shots, refuse_shared_rows, row_keys
from dpc.run.recipes import Draft, Recipe
from dpc.tasks import get_task
from dpc.tasks.base import SPLITS
from dpc.types import NO_SHOTS, Shots

T = TypeVar("T")
P = ParamSpec("P")
# More than any tokenizer puts around a text.
SPECIAL_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Prepared:
    """A recipe without known mistakes, its rows by split, and its model without weights (``load_outline``).

    outline: as it is asked with the prompt that the recipe tunes. shots: worked examples for methods without a prompt.
    notes: what a user should know about the rows.
    """

    recipe: Recipe
    outline: FrozenLM
    splits: Mapping[str, Data]
    shots: Shots = NO_SHOTS
    notes: tuple[str, ...] = ()

    @property
    def alone(self) -> FrozenLM:
        """The outline as it is asked without a prompt."""
        return with_shots(self.outline, self.shots)


class _Found:
    """Mistakes so far."""

    def __init__(self) -> None:
        self.mistakes: list[str] = []
        self.notes: list[str] = []

    def attempt(self, compute: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T | None:
        """The result; None where it was a ``UserError``, which is noted."""
        try:
            return compute(*arguments, **named)
        except UserError as error:
            self.mistakes.append(" ".join(str(error).split()))
            return None


def prepare(draft: Draft, output: Path, trust_remote_code: bool = False) -> Prepared:
    """Load rows, configuration and tokenizer, and check everything that needs no weights.

    Raises ``UserError`` with all mistakes: those of the draft, rows that cannot be read or that splits share, a model
    or device that is not there, a prompt, row or question that does not fit the context, and a folder of another kind.
    What depends on a mistake is not checked.
    """
    recipe, found = draft.recipe, _Found()
    splits: dict[str, Data] = {}
    if draft.sound(("task",), ("data",), ("limit",), ("methods",), ("settings", "task")):
        for split in SPLITS if recipe.tunes else ("test",):
            rows = found.attempt(_load, recipe, split)
            if rows is not None:
                splits[split] = rows
        _check_splits(splits, found)
    outline = None
    if draft.sound(("model",), ("revision",), ("dtype",), ("quantize",), ("adapter",), ("device",)):
        outline = found.attempt(
            load_outline,
            recipe.model,
            dtype=recipe.dtype,
            device=recipe.device,
            revision=recipe.revision,
            trust_remote_code=trust_remote_code,
            quantize=recipe.quantize,
            adapter=recipe.adapter,
        )
    if outline is not None and draft.sound(("settings", "task")):
        outline = found.attempt(asked_alone, outline, recipe.settings.task.chat)
    shots = NO_SHOTS
    if "test" in splits and recipe.asks_alone:
        test, chosen = splits["test"], recipe.settings.task
        shots = found.attempt(load_shots, test.task, recipe.data, chosen, test, splits.get("train")) or shots
    if outline is not None and draft.sound(("settings", "tuning"), ("settings", "decoding"), ("settings", "task")):
        _check_lengths(recipe, outline, splits, shots, found)
    if draft.sound(("settings", "tuning")) and "train" in splits and "dev" in splits:
        found.attempt(init_text, splits["train"], splits["dev"], recipe.settings)
    if draft.sound(("seeds",)):
        found.attempt(_check_kind, recipe, output)
    draft.refuse(found.mistakes)
    assert outline is not None
    left_out = [data.left_out() for data in splits.values()]
    return Prepared(recipe, outline, splits, shots, (*found.notes, *(text for text in left_out if text)))


def _load(recipe: Recipe, split: str) -> Data:
    limit = recipe.limit if split == "test" else None
    return Data.load(get_task(recipe.task), split, recipe.data, limit, recipe.settings.task)


def _check_splits(splits: Mapping[str, Data], found: _Found) -> None:
    for split in ("train", "dev"):
        if split in splits and "test" in splits:
            keys = row_keys(splits[split]).keys()
            before = len(found.mistakes)
            found.attempt(refuse_shared_rows, splits["test"], keys, f"tune or choose ({split} split)")
            if len(found.mistakes) == before:
                note = found.attempt(check_near_duplicates, splits[split], splits["test"])
                found.notes += [note] if note else []


def _check_lengths(recipe: Recipe, lm: FrozenLM, splits: Mapping[str, Data], shots: Shots, found: _Found) -> None:
    tuning = recipe.settings.tuning
    prompt = None
    if recipe.tunes:
        if tuning.length >= lm.context:
            found.mistakes.append(
                f"tuning.length {tuning.length}: the context of {lm.name} holds {lm.context_limit}, "
                "and question and answer must fit as well; take a shorter prompt"
            )
            return
        prompt = SoftPrompt.of(torch.zeros(tuning.length, lm.hidden_size), lm.name)
    if "train" in splits:
        found.attempt(_check_pairs, lm, splits["train"], None, recipe)
    if "dev" in splits:
        found.attempt(_check_pairs, lm, splits["dev"], tuning.dev_limit, recipe)
    for split in ("dev", "test"):
        if split in splits:
            found.attempt(_check_questions, lm, prompt, splits[split])
    if shots.rows and "test" in splits:
        found.attempt(_check_questions, with_shots(lm, shots), None, splits["test"])


def _check_pairs(lm: FrozenLM, data: Data, limit: int | None, recipe: Recipe) -> None:
    tuning, pairs = recipe.settings.tuning, data.pairs()[:limit]
    longest = min(tuning.max_length or lm.context, lm.context) - tuning.length - _around(lm)
    if any(_most_tokens(*pair) > longest or not pair[1].strip() for pair in pairs):
        encode_rows(lm, pairs, tuning.length, tuning.max_length, "training" if data.split == "train" else data.split)


def _check_questions(lm: FrozenLM, prompt: SoftPrompt | None, data: Data) -> None:
    longest = lm.context - (0 if prompt is None else len(prompt.vectors)) - _around(lm)
    for example in data.examples:
        text = data.task.prompt(example)
        if _most_tokens(text) >= longest:
            check_fits(lm, Request(lm.encode(text), prompt), example.id)


def _around(lm: FrozenLM) -> int:
    """Tokens that the chat template and worked examples put around a question."""
    return 0 if lm.asking == RAW else len(lm.encode("."))


def _most_tokens(*texts: str) -> int:
    """No tokenizer makes more tokens of texts: a byte each, and a few special ones. Saves encoding what fits anyway."""
    return sum(len(text.encode()) for text in texts) + SPECIAL_TOKENS


def _check_kind(recipe: Recipe, output: Path) -> None:
    """One folder holds one run, or several seeds of it."""
    single, several = (output / "run.json").exists(), any(output.glob("seed-*/run.json"))
    if recipe.seeds > 1 and single:
        raise UserError(f"--seeds {recipe.seeds}: {output} holds a run of one seed; choose another --output")
    if recipe.seeds == 1 and several:
        raise UserError(f"{output} holds runs of several seeds; give the same --seeds to go on, or another --output")
