"""Dataclasses that the packages exchange: one instance each, no batch axis. Importing them loads no torch."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Finish = Literal["eos", "length"]
Reason = Literal["match", "mismatch", "no_answer"]
HeadReduction = Literal["abs_of_sum", "sum_of_abs"]
PruneScope = Literal["vector", "prompt"]
PruneBy = Literal["magnitude", "value"]
Rounding = Literal["floor", "round", "ceil"]
MaskValue = Literal["zero", "mean"]
Aggregation = Literal["mean", "max"]
InfluenceRow = Literal["at", "before"]
"""Which row of attention carries ``s_i``: that at the position of token i, or the one before, which wrote it."""

# The label of a position that adds nothing to a loss; PyTorch's cross-entropy skips it by default.
IGNORED_LABEL = -100


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
    """What greedy decoding wrote: ``ids`` without the end token, and why it stopped.

    end_id: the end token, None where decoding stopped at a limit.
    """

    ids: tuple[int, ...]
    text: str
    finish: Finish
    end_id: int | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else f"{self.text[:57]}..."
        return f"Generation({text!r}, {len(self.ids)} tokens, {self.finish})"


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
class Evidence:
    """What a decision and a corruption were computed from, as records keep it. None: not computed.

    reason: why the first answer was not judged. influence: ``s_i`` of each rationale token (Eq 13); beta: their mean
    over the early rationale (Eq 12). ratio_at, ratio_before: R (Eq 11) by either reading of ``s_i``, the row at a
    token's position and the row before it; ``method.row`` says which one decides. late_flow: ``S_late`` (Eqs 8, 9).
    rationale_loss: mean cross-entropy of the first rationale, nats per token. draw: the random number that a random
    trigger compared. profile: ``S_acc`` of each virtual token (Eq 6); accumulated: Eq 7. corruption: what was done to
    the prompt, in words. more: named figures of a trigger that does not ship with dpc.
    """

    reason: str | None = None
    beta: float | None = None
    ratio_at: float | None = None
    ratio_before: float | None = None
    late_flow: float | None = None
    rationale_loss: float | None = None
    influence: tuple[float, ...] | None = field(default=None, repr=False)
    draw: float | None = None
    accumulated: bool | None = None
    profile: tuple[float, ...] | None = field(default=None, repr=False)
    corruption: str | None = None
    more: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a trigger decided about one first answer.

    triggered: whether the question is answered again. statistic: what was compared with ``threshold``; R of Eq 11 for
    the trigger ``flow``, None for triggers that compute none and for answers that were not judged. key_token: the
    virtual token that the corruption is about, None without one. judged: False for an answer too short to be judged.
    trigger: name of the trigger.
    """

    triggered: bool
    statistic: float | None
    threshold: float
    key_token: int | None = None
    judged: bool = True
    trigger: str = "flow"
    evidence: Evidence = field(default_factory=Evidence, repr=False)


@dataclass(frozen=True, slots=True)
class Score:
    """A graded text."""

    correct: bool
    extracted: str | None
    reason: Reason


@dataclass(frozen=True, slots=True)
class Cost:
    """What one instance cost.

    forward_passes, backward_passes: those that it took part in, of all blocks or of one. generated_tokens: of both
    answers. seconds: its share of the wall-clock time of its batches. forward_tokens, backward_tokens: tokens times
    blocks that they were run through, over the number of blocks; a token through the whole network counts 1.
    """

    forward_passes: int
    backward_passes: int
    generated_tokens: int
    seconds: float
    forward_tokens: float = 0.0
    backward_tokens: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method answered: one pass, or two with the decision between them.

    kept_first: there is a second answer, and the first one counts all the same.
    """

    first: Generation
    decision: Decision | None
    second: Generation | None
    cost: Cost
    kept_first: bool = False

    @property
    def final(self) -> Generation:
        """The generation that counts."""
        return self.first if self.second is None or self.kept_first else self.second

    @property
    def text(self) -> str:
        """The text that counts."""
        return self.final.text

    def __repr__(self) -> str:
        triggered = "" if self.decision is None else f", triggered={self.decision.triggered}"
        return f"Answer({self.final!r}{triggered})"


@dataclass(frozen=True, slots=True)
class Record:
    """One graded instance under one method."""

    example_id: str
    method: str
    answer: Answer
    score_first: Score
    score_final: Score
