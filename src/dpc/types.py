"""The values that flow through the package: one instance each, no batch axis, nothing of torch at import."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Finish = Literal["eos", "length"]
Reason = Literal["match", "mismatch", "no_answer"]
HeadReduction = Literal["abs_of_sum", "sum_of_abs"]
PruneScope = Literal["vector", "prompt"]


def middle(rationale_tokens: int) -> int:
    """Offset of ``r_m``: early rationale is ``[0, r_m)``, late rationale ``[r_m, n)``."""
    return rationale_tokens // 2


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a benchmark. ``answer`` is the gold answer alone, ``rationale`` the gold text a prompt is tuned on."""

    id: str
    question: str
    answer: str
    rationale: str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spans:
    """Where prompt, question and rationale stand in one sequence ``[p | q | r]``; written down when it is built."""

    prompt: slice
    question: slice
    rationale: slice

    @classmethod
    def of(cls, prompt: int, question: int, rationale: int) -> Spans:
        """Consecutive spans of the given lengths, in tokens."""
        ends = (prompt, prompt + question, prompt + question + rationale)
        return cls(slice(0, ends[0]), slice(ends[0], ends[1]), slice(ends[1], ends[2]))


@dataclass(frozen=True, slots=True)
class Generation:
    """What greedy decoding wrote: ``ids`` without the end token, and why it stopped."""

    ids: tuple[int, ...]
    text: str
    finish: Finish


@dataclass(frozen=True, slots=True)
class Saliency:
    """Saliency (Eq 1) of one instance, restricted to the prompt columns.

    scores: ``[layer, row, prompt column]``; rows are the question's, then the rationale's positions, in order.
    layers: the model layer behind each entry of the first axis. spans: in the whole sequence ``[p | q | r]``.
    loss: mean cross-entropy of the rationale in nats per token.
    """

    scores: Float[Tensor, "layer row prompt"]
    spans: Spans
    layers: tuple[int, ...]
    loss: float
    head_reduction: HeadReduction

    @property
    def question_rows(self) -> slice:
        """Rows of ``scores`` that belong to the question."""
        return slice(0, self.spans.question.stop - self.spans.question.start)

    @property
    def rationale_rows(self) -> slice:
        """Rows of ``scores`` that belong to the rationale."""
        return slice(self.question_rows.stop, self.spans.rationale.stop - self.spans.question.start)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the dynamic trigger decided about one instance, and from what.

    ratio: R of Eq 11, None where the rationale is too short to be judged. threshold: tau. key_token: the soft token
    that gathers the information, None where it was not needed. evidence: further figures and reasons, JSON types only.
    """

    triggered: bool
    ratio: float | None
    threshold: float
    key_token: int | None = None
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """A graded text."""

    correct: bool
    extracted: str | None
    reason: Reason


@dataclass(frozen=True, slots=True)
class Cost:
    """What one instance cost: network passes, tokens generated, and its share of the batch's wall-clock seconds."""

    forward_passes: int
    backward_passes: int
    generated_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method answered: one pass, or two with the decision between them."""

    first: Generation
    decision: Decision | None
    second: Generation | None
    cost: Cost

    @property
    def final(self) -> Generation:
        """The generation that counts."""
        return self.first if self.second is None else self.second


@dataclass(frozen=True, slots=True)
class Record:
    """One graded instance under one method."""

    example_id: str
    method: str
    answer: Answer
    score_first: Score
    score_final: Score
