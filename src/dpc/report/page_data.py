"""Instances as a page shows them, and the JSON that its scripts read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dpc.report.flow_data import Flow, flow_json
from dpc.types import Decision, Example, Generation, Score

# Room for s_i along the rationales, of all instances together; a page under 10 MB has to stop somewhere.
MOST_INFLUENCES = 220_000


@dataclass(frozen=True, slots=True)
class Pass:
    """One generation and its grade. tokens: the text of each of its tokens, empty where that is not known."""

    generation: Generation
    score: Score
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Instance:
    """One question, followed through a method.

    example: with an empty ``answer`` where nobody knows the gold answer; then nothing is called right or wrong.
    second: the answer with the corrupted prompt; where the trigger did not fire, what it would have been, or None.
    decision: R, tau, the key token, and as evidence ``beta``, ``influence`` (s_i a rationale token), ``profile``
    (S_acc a soft token), ``accumulated`` and ``reason``, each where there is one.
    baseline_correct: whether prompt tuning was right, None where it was not run. answers: grade by method.
    flow: the full maps, of chosen instances.
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
        fired = self.decision is None or self.decision.triggered
        return self.second if self.second is not None and fired else self.first


def outcome(instance: Instance) -> str:
    """``fixed``, ``broken``, ``both_right`` or ``both_wrong``, against prompt tuning.

    ``right`` or ``wrong`` where prompt tuning was not run; empty where nobody knows the gold answer.
    """
    if not instance.example.answer:
        return ""
    right, before = instance.final.score.correct, instance.baseline_correct
    if before is None:
        return "right" if right else "wrong"
    if before == right:
        return "both_right" if right else "both_wrong"
    return "fixed" if right else "broken"


def payload(instances: Sequence[Instance], *, k: float, masks: bool = True) -> dict[str, Any]:
    """What the scripts show, as JSON: read by ``readPayload`` of ``data.js``.

    k: that of Eq 7. masks: whether the corruption masks its key token.

    ``{"k", "masks", "vocabulary": [text of a token, ...], "instances": [...]}``, each instance with ``id``,
    ``question``, ``choices``, ``gold`` (null where not known), ``first``, ``second``, ``outcome``, ``answers``
    (``[method, extracted, correct]``), and where there was a decision ``triggered``, ``ratio``, ``tau``, ``key``,
    ``beta``, ``influence``, ``left_out`` (s_i exist, but the page has no room for them), ``profile``, ``accumulated``,
    ``reason``; ``flow`` as ``flow_json`` says. A pass is ``{"text", "tokens" (places in the vocabulary), "extracted",
    "correct", "found" (an answer at all), "cut" (stopped by the limit)}``.
    """
    counts = Counter(token for instance in instances for token in instance.first.tokens)
    vocabulary = [token for token, _ in counts.most_common()]
    places = {token: place for place, token in enumerate(vocabulary)}
    roomy = _with_influence(instances)
    return {
        "k": k,
        "masks": masks,
        "vocabulary": vocabulary,
        "instances": [_instance(each, places, k, place in roomy) for place, each in enumerate(instances)],
    }


def _with_influence(instances: Sequence[Instance]) -> set[int]:
    """Places of the instances whose s_i, and the tokens they belong to, fit on the page: what triggered goes first."""
    order = sorted(range(len(instances)), key=lambda i: not _fired(instances[i]))
    chosen, used = set(), 0
    for place in order:
        used += len(_evidence(instances[place]).get("influence") or ())
        if used <= MOST_INFLUENCES:
            chosen.add(place)
    return chosen


def _fired(instance: Instance) -> bool:
    return instance.decision is not None and instance.decision.triggered


def _evidence(instance: Instance) -> dict[str, Any]:
    return {} if instance.decision is None else instance.decision.evidence


def _instance(instance: Instance, places: Mapping[str, int], k: float, roomy: bool) -> dict[str, Any]:
    example = instance.example
    return {
        "id": example.id,
        "question": example.question,
        "choices": list(example.choices),
        "gold": example.answer or None,
        "first": _pass(instance.first, (places[token] for token in instance.first.tokens) if roomy else ()),
        "second": None if instance.second is None else _pass(instance.second, ()),
        "outcome": outcome(instance),
        "answers": [[name, score.extracted, score.correct] for name, score in instance.answers.items()],
        **({} if instance.decision is None else _decision(instance.decision, roomy)),
        **({} if instance.flow is None else {"flow": flow_json(instance.flow, k)}),
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


def _decision(decision: Decision, roomy: bool) -> dict[str, Any]:
    evidence = decision.evidence
    influence = evidence.get("influence")
    return {
        "triggered": decision.triggered,
        "ratio": decision.ratio,
        "tau": decision.threshold,
        "key": decision.key_token,
        "beta": evidence.get("beta"),
        "influence": influence if roomy else None,
        "left_out": influence is not None and not roomy,
        "profile": evidence.get("profile"),
        "accumulated": evidence.get("accumulated"),
        "reason": evidence.get("reason"),
    }
