"""One question traced: equal to its parts, decided as its method decides, and computed once."""

from __future__ import annotations

import functools
from dataclasses import fields, replace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from dpc.engine import Decoder, Request
from dpc.errors import UserError
from dpc.flow.measures import accumulation_profile, key_token, rationale_influence
from dpc.flow.saliency import prompt_saliency
from dpc.flow.shallow import shallow_layers
from dpc.flow.trigger import affected_share
from dpc.methods import METHODS, build_method, get_method
from dpc.methods.corruptions import Corruption
from dpc.methods.method import Method, Setup
from dpc.methods.trace import BY_HAND, Tracer
from dpc.methods.triggers import FLOW
from dpc.model.lm import FrozenLM
from dpc.model.loading import load_lm
from dpc.prompt.corruption import corrupt
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import DecodingSettings
from dpc.types import Evidence, Generation
from tests.evidence import About
from tests.tiny_models import tiny_lm

QUESTION, NEW_TOKENS = [40, 41, 42, 43], 14
PLAIN = DecodingSettings(slots=False, drafts=False)


@functools.cache
def lm() -> FrozenLM:
    return tiny_lm("llama", layers=4)


@functools.cache
def prompt() -> SoftPrompt:
    return SoftPrompt.of(torch.randn(5, lm().hidden_size, generator=torch.Generator().manual_seed(3)), lm().name)


def tracer(new_tokens: int = NEW_TOKENS, method: Method | None = None) -> Tracer:
    setup = Setup(prompt(), trigger_rate=0.5)
    return Tracer(lm(), method or get_method("dpc"), setup, DecodingSettings(), new_tokens)


def greedy(soft_prompt: SoftPrompt) -> Generation:
    [answer] = Decoder(lm(), PLAIN).all([Request(QUESTION, soft_prompt)], NEW_TOKENS)
    return answer


@pytest.mark.parametrize(("gamma", "token"), [(None, None), (60.0, None), (0.0, 3)])
def test_a_trace_is_its_parts_put_together(gamma: float | None, token: int | None) -> None:
    trace = tracer().trace(QUESTION, 0.4, gamma, token)
    first = greedy(prompt())
    [saliency] = prompt_saliency(lm(), prompt().vectors, [QUESTION], [first.ids])
    influence = rationale_influence(saliency)
    profile = accumulation_profile(saliency, shallow_layers(4))
    masked = key_token(profile) if token is None else token
    corrupted = corrupt(prompt().vectors, masked, 10.0 if gamma is None else gamma)
    assert trace.look.first.generation == first
    assert trace.again.second.generation == greedy(SoftPrompt.of(corrupted, lm().name))
    torch.testing.assert_close(trace.again.corrupted.vectors, corrupted)
    torch.testing.assert_close(trace.look.influence, influence, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(trace.look.profile, profile, rtol=1e-4, atol=1e-9)
    decision = trace.decision
    assert decision.statistic == affected_share(influence).ratio
    assert decision.triggered == (decision.statistic > 0.4)
    rule, pruned = BY_HAND if token is not None else "largest S_acc", 10 if gamma is None else gamma
    assert decision.key_token == trace.again.token == masked
    assert decision.evidence.corruption == f"{rule}: masked, gamma {pruned:g} percent per vector"
    assert trace.again.gamma == pruned


TWO_PASSES = [name for name in METHODS if get_method(name).corruption is not None]


@pytest.mark.parametrize("name", TWO_PASSES)
@pytest.mark.parametrize("tau", [-1.0, 0.4, 1.0])
def test_a_trace_decides_and_corrupts_as_its_method_does(name: str, tau: float) -> None:
    method = get_method(name)
    # The random trigger compares its threshold, 1 minus the rate, with a number in (0, 1].
    rate = min(1.0, 1 - tau)
    trace = tracer(method=method).trace(QUESTION, 1 - rate if name == "random_trigger" else tau)
    built = build_method(method, Setup(prompt(), tau, trigger_rate=rate))
    [(_, answer)] = built.answer(Decoder(lm()), [QUESTION], NEW_TOKENS)
    ours, theirs = trace.decision, answer.decision
    assert theirs is not None
    assert (ours.triggered, ours.statistic, ours.trigger) == (theirs.triggered, theirs.statistic, theirs.trigger)
    assert ours.evidence.corruption is not None
    assert ours.evidence.rationale_loss is not None
    # What the method computed, the trace computed too; what it did not compute is only shown.
    unknown = {each.name: None for each in fields(Evidence) if getattr(theirs.evidence, each.name) is None}
    assert replace(ours.evidence, **unknown) == About(theirs.evidence, rel=1e-2)
    assert trace.look.first.generation == answer.first
    assert theirs.triggered == (answer.second is not None)
    if answer.second is not None:
        assert (answer.second, theirs.key_token) == (trace.again.second.generation, trace.again.token)


def test_a_method_that_corrupts_nothing_has_no_decision_to_trace() -> None:
    for name in set(METHODS) - set(TWO_PASSES):
        with pytest.raises(
            UserError, match=f"--method {name}: does not corrupt the prompt, so there is no decision to trace"
        ):
            tracer(method=get_method(name))


def test_a_corruption_of_ones_own_takes_neither_token_nor_gamma() -> None:
    halved = Corruption("every vector halved", lambda p, _: SoftPrompt.of(p.vectors / 2, p.base_model), token=None)
    subject = tracer(method=Method("halving", "half of it", FLOW, halved))
    trace = subject.trace(QUESTION, -1.0)
    assert (trace.again.token, trace.decision.key_token) == (None, None)
    assert trace.decision.evidence.corruption == "every vector halved"
    assert trace.again.second.generation == greedy(SoftPrompt.of(prompt().vectors / 2, lm().name))
    for gamma, token in ((20.0, None), (None, 1)):
        with pytest.raises(UserError, match="takes neither a token nor gamma"):
            subject.trace(QUESTION, -1.0, gamma, token)


def test_another_tau_computes_nothing_and_another_corruption_only_a_second_answer() -> None:
    passes: list[int] = []
    subject = tracer()
    with lm().model.register_forward_pre_hook(lambda module, args: passes.append(1)):
        first = subject.trace(QUESTION, 0.5)
        passes.clear()
        assert subject.trace(QUESTION, 0.1).look is first.look
        assert subject.trace(QUESTION, 0.1).again is first.again
        by_hand = subject.trace(QUESTION, 0.1, 10.0, first.again.token)
        assert by_hand.again.second is first.again.second
        assert not passes
        other = subject.trace(QUESTION, 0.5, 70.0)
        assert passes
        # Another question's look.
        passes.clear()
        subject.trace([50, 51], 0.5)
        assert passes
    assert other.look is first.look
    assert other.again.second.generation.ids != first.again.second.generation.ids


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((QUESTION, 0.5, None, 5), "virtual token 5: expected one of the prompt's, 0 to 4"),
        ((QUESTION, 0.5, None, -1), "virtual token -1"),
        ((QUESTION, 0.5, 101.0), "gamma 101"),
        (([], 0.5), "the question has no tokens"),
    ],
)
def test_what_can_not_be_traced_is_refused_in_one_line(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tracer().trace(*arguments)  # type: ignore[arg-type]


def test_a_short_rationale_is_shown_and_never_triggers() -> None:
    trace = tracer(new_tokens=3).trace(QUESTION, -1.0)
    assert (trace.decision.triggered, trace.decision.statistic, trace.decision.judged) == (False, None, False)
    assert "shorter than 4" in (trace.decision.evidence.reason or "")
    assert len(trace.look.influence) == 3


def test_a_question_too_long_for_a_map_is_traced_without(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tracer().trace(QUESTION, 0.5)
    assert whole.look.flow is not None
    monkeypatch.setattr("dpc.methods.trace.fits_a_map", lambda *_: False)
    without = tracer().trace(QUESTION, 0.5)
    assert without.look.flow is None
    torch.testing.assert_close(without.look.saliency.scores, whole.look.saliency.scores, rtol=1e-3, atol=1e-9)
    assert without.decision.statistic == whole.decision.statistic


@pytest.mark.parametrize("text", ["How many 🙂 pens?\n\tשבת é", "�x", ""])
def test_the_texts_of_tokens_are_the_text(text: str) -> None:
    for model in (lm(), load_lm("zoo")):
        ids = model.encode_continuation(text)
        texts = model.token_texts(ids)
        assert len(texts) == len(ids)
        assert "".join(texts) == model.decode(ids, special=True)
    if "🙂" in text:
        assert lm().token_texts(lm().encode_continuation("a🙂b")) == ["a", "", "", "", "🙂", "b"]
    assert lm().token_texts([0, 40])[0] == "<eos>"


def test_tokens_keep_the_spaces_that_a_tokenizer_drops_at_the_start() -> None:
    tokenizer = Tokenizer(models.WordLevel({"▁a": 0, "▁b": 1, "c": 2}, "c"))
    tokenizer.decoder = decoders.Metaspace()
    model = replace(lm(), tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert model.decode([1]) == "b"
    assert model.token_texts([0, 1, 2, 1]) == ["a", " b", "c", " b"]
