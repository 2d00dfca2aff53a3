"""How questions are put to a model: as the task's text or in its chat template, after worked examples or none."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from dpc.errors import UserError
from dpc.types import NO_SHOTS, Format, Shot, Shots

# Between two worked examples in the raw format.
SHOT_SEPARATOR = "\n\n"
# Variables of chat templates that switch thinking off: the answer begins with the rationale.
TEMPLATE_VARIABLES: dict[str, Any] = {"enable_thinking": False, "thinking": False}
# Some templates write today's date. With it a question would be another one every day.
_DATES = {"%d %b %Y": "26 Jul 2024", "%d %B %Y": "26 July 2024", "%B %d, %Y": "July 26, 2024"}
_FIXED_DATE = f'{{%- macro strftime_now(format) -%}}{{{{ {_DATES}.get(format, "2024-07-26") }}}}{{%- endmacro -%}}'
# Text that a template is rendered with to see what it writes behind an assistant's turn.
_PROBE = "qprobeq"

_FAILURES = (TemplateError, ValueError, TypeError, KeyError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class Asking:
    """How questions are put to a model. turn_end: the token that ends an assistant's turn, None for the raw format."""

    turn_end: int | None = None
    shots: Shots = NO_SHOTS

    @property
    def format(self) -> Format:
        """``chat`` or ``raw``."""
        return "raw" if self.turn_end is None else "chat"

    def __str__(self) -> str:
        return f"{self.format}, {len(self.shots.rows)}-shot"

    def until_next_question(self, text: str) -> str:
        """``text`` up to a next question that the model went on with; whole in the chat format and without shots."""
        if self.format == "chat" or not self.shots.header:
            return text
        return re.split(rf"\n\s*{re.escape(self.shots.header)}", text, maxsplit=1)[0]


RAW = Asking()


def chat_token_ids(tokenizer: PreTrainedTokenizerBase, shots: Sequence[Shot], question: str) -> list[int]:
    """Token ids of a question in the chat template, up to the place where the assistant's turn begins.

    Shots are alternating turns of user and assistant. Special tokens are those that the template writes. Text of a
    question that looks like one ("<|im_end|>") is encoded as ordinary text. Raises ``UserError`` for a template that
    cannot be rendered.
    """
    messages = []
    for shot in shots:
        messages += [_turn("user", shot.question), _turn("assistant", shot.target.strip())]
    messages.append(_turn("user", question))
    ids: list[int] = _render(tokenizer, messages, add_generation_prompt=True, sanitize_control_tokens=True)
    return ids


def uses_chat(tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int]) -> bool:
    """Whether the model was tuned on its chat template: it has one, and the model stops where an assistant's turn ends.

    Base models such as Qwen's carry a template too, but their end token is another one.
    end_ids: tokens at which the model stops.
    """
    if not tokenizer.chat_template:
        return False
    end = turn_end(tokenizer, end_ids)
    return end in end_ids or end == tokenizer.eos_token_id


def turn_end(tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int]) -> int:
    """The first special token that the template writes after an assistant's text; an end token where it writes none.

    Raises ``UserError`` for a tokenizer without a chat template, or one that cannot be rendered.
    """
    messages = [_turn("user", _PROBE), _turn("assistant", _PROBE)]
    behind = str(_render(tokenizer, messages, tokenize=False)).rpartition(_PROBE)[2]
    added = tokenizer.added_tokens_decoder
    for token in tokenizer(behind, add_special_tokens=False)["input_ids"]:
        if token in end_ids or (token in added and added[token].special):
            return int(token)
    return end_ids[0]


def template_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 (hex) of the chat template's text."""
    return hashlib.sha256(_template(tokenizer).encode()).hexdigest()


def special_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts of special tokens."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        text: str = tokenizer.get_chat_template()
    except ValueError as error:
        raise UserError(
            "task.chat=on: the model's tokenizer has no chat template; set task.chat=off, or load an instruct model"
        ) from error
    return text


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], **arguments: Any) -> Any:
    template = _template(tokenizer)
    if "strftime_now" in template:
        template = _FIXED_DATE + template
    try:
        return tokenizer.apply_chat_template(
            messages, chat_template=template, return_dict=False, **arguments, **TEMPLATE_VARIABLES
        )
    except _FAILURES as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"the model's chat template can't be used ({reason}); set task.chat=off") from error
