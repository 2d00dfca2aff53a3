"""What every method is given, and the one thing it does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dpc.engine import Decoder
from dpc.errors import UserError
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import ActSettings, MethodSettings
from dpc.types import Answer


@dataclass(frozen=True, slots=True)
class Setup:
    """What methods are built from: some need no prompt, some no threshold.

    tau: threshold of the trigger. trigger_rate: share of the calibration rows on which it fired, between 0 and 1.
    act_heads: layer and head of those that ACT calibrates, as ``act`` says.
    """

    soft_prompt: SoftPrompt | None = None
    tau: float | None = None
    settings: MethodSettings = field(default_factory=MethodSettings)
    trigger_rate: float | None = None
    act_heads: tuple[tuple[int, int], ...] | None = None
    act: ActSettings = field(default_factory=ActSettings)

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

    def need_trigger_rate(self, method: str) -> float:
        """The calibrated trigger's rate. Raises ``UserError`` where there is none."""
        if self.trigger_rate is None:
            raise UserError(
                f"method {method} fires as often as the calibrated trigger did on the dev split; run `dpc calibrate` "
                "for this prompt first, and leave --tau out"
            )
        return self.trigger_rate

    def need_act_heads(self, method: str) -> tuple[tuple[int, int], ...]:
        """The heads to calibrate. Raises ``UserError`` where none were searched."""
        if self.act_heads is None:
            raise UserError(f"method {method} needs its heads; run `dpc calibrate --method act` for this prompt first")
        return self.act_heads


class Method(Protocol):
    """Answers questions with a frozen model."""

    def answer(
        self, decoder: Decoder, questions: Sequence[Sequence[int]], max_new_tokens: int
    ) -> Iterator[tuple[int, Answer]]:
        """Each question (token ids) once, as its index and its answer, in the order in which they are done."""
        ...
