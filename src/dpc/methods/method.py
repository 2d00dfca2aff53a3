"""``Method``, and the ``Setup`` that methods are built from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from dpc.engine import Decoder
from dpc.errors import UserError
from dpc.flow.thresholds import ALWAYS
from dpc.methods.corruptions import Corruption
from dpc.methods.triggers import CALIBRATED, Trigger
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import ActSettings, MethodSettings
from dpc.types import Answer

Need = Literal["prompt", "tau", "trigger_rate", "act_heads"]
"""What a method cannot do without."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Setup:
    """What methods are built from: the prompt, what was chosen for it, and settings.

    tau: threshold for every trigger that is calibrated; None: each trigger's own, of ``thresholds`` (by trigger name).
    trigger_rate: share of the calibration rows on which DPC triggered, between 0 and 1. act_heads: layer and head of
    those that ACT calibrates, as ``act`` says. chosen_on: keys of the rows that something was chosen on, by what was
    done with them. calibration: the stored calibration of the trigger ``flow``. notes: what a user should know.
    others: further prompts, for methods that use several.
    """

    soft_prompt: SoftPrompt | None = None
    tau: float | None = None
    settings: MethodSettings = field(default_factory=MethodSettings)
    trigger_rate: float | None = None
    act_heads: tuple[tuple[int, int], ...] | None = None
    act: ActSettings = field(default_factory=ActSettings)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    chosen_on: Mapping[str, frozenset[str]] = field(default_factory=dict)
    calibration: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    others: tuple[SoftPrompt, ...] = ()

    def tau_of(self, trigger: str) -> float | None:
        """The threshold of a calibrated trigger, None where none is known."""
        return self.thresholds.get(trigger) if self.tau is None else self.tau

    def need_prompt(self, method: str) -> SoftPrompt:
        """The soft prompt. Raises ``UserError`` where there is none."""
        if self.soft_prompt is None:
            raise UserError(
                f"method {method} needs a soft prompt; pass --prompt DIR, a folder made by `dpc tune` or PEFT"
            )
        return self.soft_prompt

    def need_threshold(self, method: str, trigger: Trigger) -> float:
        """The threshold of ``trigger``. Raises ``UserError`` where it was not calibrated."""
        if trigger.threshold_from == "none":
            return ALWAYS
        if trigger.threshold_from == "trigger_rate":
            return 1 - self._need_trigger_rate(method)
        tau = self.tau_of(trigger.name)
        if tau is None:
            own = "" if trigger.name == "flow" else " --method FILE.py:METHOD"
            raise UserError(
                f"method {method} needs a threshold; run `dpc calibrate{own}` for this prompt first, or pass --tau"
            )
        return tau

    def _need_trigger_rate(self, method: str) -> float:
        if self.trigger_rate is None:
            raise UserError(
                f"method {method} triggers as often as the calibrated DPC did on the dev split; run `dpc calibrate` "
                "for this prompt first, and leave --tau out"
            )
        return self.trigger_rate

    def need_act_heads(self, method: str) -> tuple[tuple[int, int], ...]:
        """The heads to calibrate. Raises ``UserError`` where none were searched."""
        if self.act_heads is None:
            raise UserError(f"method {method} needs its heads; run `dpc calibrate --method act` for this prompt first")
        return self.act_heads


@runtime_checkable
class Runner(Protocol):
    """A built method: it answers questions with a frozen model."""

    def answer(
        self, decoder: Decoder, questions: Sequence[Sequence[int]], max_new_tokens: int
    ) -> Iterator[tuple[int, Answer]]:
        """Each question (token ids) once, as its index and its answer, in the order in which they are done."""
        ...


Build = Callable[[Setup], Runner]


@dataclass(frozen=True, slots=True)
class Method:
    """A method as a value: two passes with a trigger and a corruption between them, or a function that builds one.

    name: lower-case letters, digits and underscores; records and tables use it. summary: one line. trigger and
    corruption: given together, for two passes. build: for anything else, with the trigger that it decides by if there
    is one. needs: what ``build`` cannot do without.
    source: SHA-256 of the file that holds the method, empty for one that ships with dpc; filled in when it is loaded.
    Raises ``UserError`` for another name, or where the parts are not one of the two.
    """

    name: str
    summary: str
    trigger: Trigger | None = None
    corruption: Corruption | None = None
    build: Build | None = None
    needs: frozenset[Need] = frozenset({"prompt"})
    source: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name.startswith("calibration"):
            raise UserError(
                f"method {self.name!r}: expected a name of a-z, 0-9 and _, such as my_method, not calibration"
            )
        parts = self.trigger is not None, self.corruption is not None, self.build is not None
        if parts not in ((True, True, False), (True, False, True), (False, False, True)):
            raise UserError(f"method {self.name}: expected trigger and corruption, or build, with a trigger or without")
        if self.trigger is not None and not _NAME.fullmatch(self.trigger.name):
            raise UserError(f"trigger {self.trigger.name!r}: expected a name of a-z, 0-9 and _, such as my_trigger")
        # Calibrations are files by trigger.
        if self.trigger is not None and CALIBRATED.get(self.trigger.name, self.trigger) != self.trigger:
            raise UserError(f"trigger {self.trigger.name}: has the name of one that ships with dpc; choose another")

    @property
    def passes(self) -> int:
        """How many answers a question may get: 1 or 2."""
        return 1 if self.trigger is None else 2

    @property
    def requires(self) -> frozenset[Need]:
        """What the method cannot do without, what its trigger needs included."""
        source = "none" if self.trigger is None else self.trigger.threshold_from
        if self.trigger is None:
            return self.needs
        return self.needs | (frozenset() if source == "none" else frozenset({source}))

    @property
    def calibrated(self) -> str | None:
        """Name of the trigger whose calibration the method uses, None where it uses none."""
        if "trigger_rate" in self.requires:
            return "flow"
        return self.trigger.name if self.trigger is not None and "tau" in self.requires else None
