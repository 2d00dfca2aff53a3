"""Instances as a page shows them, and the JSON that its scripts read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dpc.report.flow_data import Flow, flow_json
from dpc.report.formats import statistic_label
from dpc.settings import MethodSettings
from dpc.types import Decision, Example, Generation, Score

# Values of s_i that a page holds, of all instances together; they keep it under 10 MB.
MOST_INFLUENCES = 220_000


@dataclass(frozen=True, slots=True)
class Pass:
    """One generation and its grade. tokens: the text of each token, empty where that is not known."""

    generation: Generation
    score: Score
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Instance:
    """One question and what a method answered.

    example: with an empty ``answer`` where there is no gold answer; then nothing is called right or wrong.
    second: the answer with the corrupted prompt; where the method did not trigger, what it would have been, or None.
    decision: None for a method of one pass. baseline_correct: whether prompt tuning was right, None where it was not
    run. answers: grade by method. flow: the whole maps, of chosen instances.
    """

    example: Example
    first: Pass
    second: Pass | None = None
    decision: Decision | None = None
    baseline_correct: bool | None = None
    answers: Mapping[str, Score] = field(default_factory=dict)
    flow: Flow | None = None

    @property
    def final(self) -> Pass:
        """The pass that counts."""
        counts = self.decision is None or self.decision.triggered
        return self.second if self.second is not None and counts else self.first


def outcome(instance: Instance) -> str:
    """``fixed``, ``broken``, ``both_right`` or ``both_wrong``, against prompt tuning.

    ``right`` or ``wrong`` where prompt tuning was not run; empty where there is no gold answer.
    """
    if not instance.example.answer:
        return ""
    right, before = instance.final.score.correct, instance.baseline_correct
    if before is None:
        return "right" if right else "wrong"
    if before == right:
        return "both_right" if right else "both_wrong"
    return "fixed" if right else "broken"


def payload(instances: Sequence[Instance], settings: MethodSettings) -> dict[str, Any]:
    """What the scripts show, as JSON: read by ``readPayload`` of ``data.js``.

    settings: those that the instances were traced with; k of Eq 7 and the shallow layers are taken from them.

    ``{"k", "vocabulary": [text of a token, ...], "instances": [...]}``, each instance with ``id``, ``question``,
    ``choices``, ``gold`` (null where not known), ``first``, ``second``, ``outcome``, ``answers`` (``[method, extracted,
    correct]``), and ``decision``, null for a method of one pass; ``flow`` as ``flow_json`` says. A pass is ``{"text",
    "tokens" (places in the vocabulary), "extracted", "correct", "found" (an answer at all), "cut" (stopped by the
    limit)}``. A decision is ``{"triggered", "judged", "trigger", "symbol" (what its statistic is called), "statistic",
    "threshold", "key", "beta", "influence", "left_out" (s_i exist, but the page does not hold them), "profile",
    "accumulated", "reason", "corruption", "more"}``.
    """
    counts = Counter(token for instance in instances for token in instance.first.tokens)
    vocabulary = [token for token, _ in counts.most_common()]
    places = {token: place for place, token in enumerate(vocabulary)}
    whole = _with_influence(instances)
    return {
        "k": settings.accumulation_k,
        "vocabulary": vocabulary,
        "instances": [_instance(each, places, settings, place in whole) for place, each in enumerate(instances)],
    }


def _with_influence(instances: Sequence[Instance]) -> set[int]:
    """Places of the instances whose s_i, and the tokens they belong to, the page holds: triggered ones first."""
    order = sorted(range(len(instances)), key=lambda i: not _triggered(instances[i]))
    chosen, used = set(), 0
    for place in order:
        used += len(_influence(instances[place]))
        if used <= MOST_INFLUENCES:
            chosen.add(place)
    return chosen


def _triggered(instance: Instance) -> bool:
    return instance.decision is not None and instance.decision.triggered


def _influence(instance: Instance) -> tuple[float, ...]:
    return () if instance.decision is None else instance.decision.evidence.influence or ()


def _instance(instance: Instance, places: Mapping[str, int], settings: MethodSettings, whole: bool) -> dict[str, Any]:
    example, decision = instance.example, instance.decision
    key = None if decision is None else decision.key_token
    return {
        "id": example.id,
        "question": example.question,
        "choices": list(example.choices),
        "gold": example.answer or None,
        "first": _pass(instance.first, (places[token] for token in instance.first.tokens) if whole else ()),
        "second": None if instance.second is None else _pass(instance.second, ()),
        "outcome": outcome(instance),
        "answers": [[name, score.extracted, score.correct] for name, score in instance.answers.items()],
        "decision": None if decision is None else _decision(decision, whole),
        **({} if instance.flow is None else {"flow": flow_json(instance.flow, settings, key)}),
    }


def _pass(one: Pass, tokens: Iterable[int]) -> dict[str, Any]:
    return {
        "text": one.generation.text,
        "tokens": list(tokens),
        "extracted": one.score.extracted,
        "correct": one.score.correct,
        "found": one.score.reason != "no_answer",
        "cut": one.generation.finish == "length",
    }


def _decision(decision: Decision, whole: bool) -> dict[str, Any]:
    evidence = decision.evidence
    return {
        "triggered": decision.triggered,
        "judged": decision.judged,
        "trigger": decision.trigger,
        "symbol": statistic_label(decision.trigger),
        "statistic": decision.statistic,
        "threshold": decision.threshold,
        "key": decision.key_token,
        "beta": evidence.beta,
        "influence": evidence.influence if whole else None,
        "left_out": evidence.influence is not None and not whole,
        "profile": evidence.profile,
        "accumulated": evidence.accumulated,
        "reason": evidence.reason,
        "corruption": evidence.corruption,
        "more": evidence.more,
    }
