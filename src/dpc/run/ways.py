"""How the methods of a run ask their questions: with a soft prompt as it was tuned, without one as settings say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dpc.methods.method import Method, Setup
from dpc.model.asking import special_texts
from dpc.model.lm import FrozenLM
from dpc.prompt.asked import asked_alone, asked_with, unrecorded_note
from dpc.run.data import Data
from dpc.settings import TaskSettings

WITH_PROMPT, WITHOUT_PROMPT = "with_prompt", "without_prompt"


def how_asked(method: Method) -> str:
    """``WITH_PROMPT`` for a method that needs a soft prompt, else ``WITHOUT_PROMPT``."""
    return WITH_PROMPT if "prompt" in method.requires else WITHOUT_PROMPT


def asked_by(lm: FrozenLM, setup: Setup, methods: Sequence[Method], settings: TaskSettings) -> dict[str, FrozenLM]:
    """The model as methods with a prompt and without one ask it; only what one of ``methods`` needs.

    Raises ``UserError`` as ``asked_with`` and ``asked_alone`` do.
    """
    found = {}
    for method in methods:
        if how_asked(method) == WITH_PROMPT:
            found[WITH_PROMPT] = asked_with(lm, setup.need_prompt(method.name), settings.chat)
        else:
            found[WITHOUT_PROMPT] = asked_alone(lm, settings.chat, setup.shots)
    return found


def asking_notes(
    lm: FrozenLM, setup: Setup, data: Data, asked: Mapping[str, FrozenLM], settings: TaskSettings
) -> Iterator[str]:
    """What a user should know about the way in which rows are asked."""
    if WITH_PROMPT in asked and setup.soft_prompt is not None:
        note = unrecorded_note(lm, setup.soft_prompt, settings.chat)
        if note is not None:
            yield note
    ways = {str(each.asking) for each in asked.values()}
    if len(ways) > 1:
        with_one, without = asked[WITH_PROMPT].asking, asked[WITHOUT_PROMPT].asking
        yield f"methods with a soft prompt are asked {with_one}; without one {without}"
    if settings.shots and WITHOUT_PROMPT not in asked:
        yield f"task.shots={settings.shots}: no method without a soft prompt is evaluated, and only these get examples"
    if any(each.asking.format == "chat" for each in asked.values()):
        special = special_texts(lm.tokenizer)
        texts = (data.task.prompt(example) for example in data.examples)
        count = sum(any(token in text for token in special) for text in texts)
        if count:
            yield (
                f"{count} questions hold text of special tokens, which is encoded as ordinary text in the chat "
                "template; if the task writes a template of its own, set task.chat=off"
            )
