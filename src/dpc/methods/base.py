"""What every method is given, and the one thing it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dpc.engine import Decoder
from dpc.errors import UserError
from dpc.settings import MethodSettings
from dpc.soft_prompt import SoftPrompt
from dpc.types import Answer


@dataclass(frozen=True, slots=True)
class Setup:
    """What methods are built from: some need no prompt, some no threshold."""

    soft_prompt: SoftPrompt | None = None
    tau: float | None = None
    settings: MethodSettings = field(default_factory=MethodSettings)

    def need_prompt(self, method: str) -> SoftPrompt:
        """The soft prompt. Raises ``UserError`` where there is none."""
        if self.soft_prompt is None:
            raise UserError(
                f"method {method} needs a soft prompt; pass --prompt DIR, a folder made by `dpc tune` or PEFT"
            )
        return self.soft_prompt

    def need_tau(self, method: str) -> float:
        """The threshold. Raises ``UserError`` where there is none."""
        if self.tau is None:
            raise UserError(
                f"method {method} needs a threshold; run `dpc calibrate` for this prompt first, or pass --tau"
            )
        return self.tau


class Method(Protocol):
    """Answers questions with a frozen model."""

    def answer(
        self, decoder: Decoder, questions: Sequence[Sequence[int]], max_new_tokens: int
    ) -> Iterator[tuple[int, Answer]]:
        """Each question (token ids) once, as its index and its answer, in the order in which they are done."""
        ...
