"""In which format questions are put to a model: that of the soft prompt's tuning, or the model's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dpc.errors import UserError
from dpc.model.asking import Asking, template_sha256, turn_end, uses_chat
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import Chat
from dpc.types import NO_SHOTS, Shots


def asked_alone(lm: FrozenLM, chat: Chat, shots: Shots = NO_SHOTS) -> FrozenLM:
    """``lm`` as it is asked without a soft prompt, and as a new prompt is tuned on it.

    With ``auto``, in its chat template where it was tuned on that (``uses_chat``), else with the task's text. shots:
    worked examples before every question. Raises ``UserError`` where ``chat`` is on and there is no template.
    """
    ends = lm.own_end_ids
    wanted = chat == "on" or (chat == "auto" and uses_chat(lm.tokenizer, ends))
    return replace(lm, asking=Asking(turn_end(lm.tokenizer, ends) if wanted else None, shots))


def with_shots(lm: FrozenLM, shots: Shots) -> FrozenLM:
    """``lm`` as it is asked, with worked examples before every question."""
    return replace(lm, asking=replace(lm.asking, shots=shots))


def asked_with(lm: FrozenLM, prompt: SoftPrompt, chat: Chat) -> FrozenLM:
    """``lm`` as it is asked with ``prompt``: in the format that the prompt was tuned in, without worked examples.

    A prompt that PEFT alone made has no record of its format. With ``auto`` it is asked with the task's text
    (``unrecorded_note`` tells it). Raises ``UserError`` where ``chat`` asks for another format than the recorded one.
    """
    if prompt.format is None:
        return asked_alone(lm, "off" if chat == "auto" else chat)
    asked = asked_alone(lm, "on" if prompt.format == "chat" else "off")
    if chat != "auto" and asked_alone(lm, chat).asking != asked.asking:
        raise UserError(
            f"task.chat={chat}: the prompt '{prompt.directory or prompt.sha256[:12]}' was tuned in the {prompt.format} "
            f"format; leave task.chat=auto, or tune a prompt with task.chat={chat}"
        )
    return asked


def asked_with_all(lm: FrozenLM, prompt: SoftPrompt, others: Sequence[SoftPrompt], chat: Chat) -> FrozenLM:
    """``lm`` as it is asked with ``prompt``. Raises ``UserError`` where one of ``others`` needs another format."""
    asked = asked_with(lm, prompt, chat)
    for other in others:
        if (found := asked_with(lm, other, chat).asking) != asked.asking:
            raise UserError(
                f"prompt '{other.directory or other.sha256[:12]}': is asked {found.format}, but "
                f"'{prompt.directory or prompt.sha256[:12]}' {asked.asking.format}; give prompts of one format"
            )
    return asked


def unrecorded_note(lm: FrozenLM, prompt: SoftPrompt, chat: Chat) -> str | None:
    """What to tell about a prompt without a record of its format; None where there is nothing to choose."""
    if prompt.format is not None or chat != "auto" or not lm.tokenizer.chat_template:
        return None
    return (
        "the adapter does not say in which format it was tuned: it is asked with the task's text; if it was tuned in "
        "the chat template, set task.chat=on"
    )


def describe_asking(lm: FrozenLM) -> dict[str, Any]:
    """What identifies how questions are put to ``lm``, as JSON values."""
    asking, rows = lm.asking, lm.asking.shots.rows
    described: dict[str, Any] = {"format": asking.format, "shots": [shot.id for shot in rows]}
    if asking.format == "chat":
        described["chat_template_sha256"] = template_sha256(lm.tokenizer)
    if rows:
        described["shots_sha256"] = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return described
