"""Requests are submitted and drained: they may join a running drain, and a failed drain leaves nothing behind."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from itertools import islice

import pytest

from dpc.engine import Decoder, Request
from dpc.errors import UserError
from dpc.settings import DecodingSettings
from tests.engine.test_slots import alone, lm_with_many_ends, requests_for, soft_prompt
from tests.tiny_models import CONTEXT


@pytest.mark.parametrize("slots", [True, False])
def test_requests_may_be_submitted_while_a_drain_is_consumed(slots: bool) -> None:
    lm = lm_with_many_ends("llama")
    requests = requests_for(lm, 20, [soft_prompt(lm)])
    decoder, done = Decoder(lm, DecodingSettings(batch_size=4, slots=slots)), []
    decoder.submit(requests[:3])
    later = iter(requests[3:])
    for decoded in decoder.drain(20):
        done.append(decoded)
        decoder.submit(islice(later, 2))
    ordered = sorted(done, key=lambda decoded: decoded.request.tag)
    assert [decoded.generation for decoded in ordered] == alone(lm, requests, 20)


def test_a_submitted_request_joins_the_rows_that_are_running() -> None:
    lm = lm_with_many_ends("llama", [257])
    [long, short, late] = [Request([20, 21, 22 + tag], soft_prompt(lm), tag=tag) for tag in range(3)]
    decoder = Decoder(lm, DecodingSettings(batch_size=2, draft_tokens=0))
    decoder.submit([long, replace(short, draft=alone(lm, [short], 20)[0].ids)])
    order = []
    for decoded in decoder.drain(20):
        order.append(decoded.request.tag)
        if decoded.request.tag == short.tag:
            decoder.submit([replace(late, draft=alone(lm, [late], 20)[0].ids)])
    # Both short requests are complete before the long one, so they shared its passes.
    assert order == [short.tag, late.tag, long.tag]


def test_a_drain_of_nothing_is_empty_and_submitted_requests_wait_for_the_next_drain() -> None:
    lm = lm_with_many_ends("llama")
    decoder, requests = Decoder(lm), requests_for(lm, 3, [soft_prompt(lm)])
    assert list(decoder.drain(9)) == []
    decoder.submit(requests[:1])
    decoder.submit(requests[1:])
    assert {decoded.request.tag for decoded in decoder.drain(9)} == {0, 1, 2}
    assert list(decoder.drain(9)) == []


def test_a_decoder_serves_drains_of_growing_length_one_after_the_other() -> None:
    lm = lm_with_many_ends("llama")
    decoder, prompt = Decoder(lm, DecodingSettings(batch_size=3)), soft_prompt(lm)
    for longest, new_tokens in ((4, 3), (30, 20), (80, 40), (10, 5)):
        requests = requests_for(lm, 7, [prompt], longest)
        assert decoder.all(requests, new_tokens) == alone(lm, requests, new_tokens)


@pytest.mark.parametrize("slots", [True, False])
def test_a_second_drain_is_refused_and_the_first_goes_on(slots: bool) -> None:
    lm = lm_with_many_ends("llama")
    decoder = Decoder(lm, DecodingSettings(batch_size=2, slots=slots))
    requests = requests_for(lm, 5, [soft_prompt(lm)])
    decoder.submit(requests)
    drain = decoder.drain(9)
    done = [next(drain)]
    with pytest.raises(RuntimeError, match="being drained"):
        next(decoder.drain(9))
    with pytest.raises(RuntimeError, match="being drained"):
        decoder.all(requests, 9)
    done += drain
    ordered = sorted(done, key=lambda decoded: decoded.request.tag)
    assert [decoded.generation for decoded in ordered] == alone(lm, requests, 9)


@pytest.mark.parametrize("slots", [True, False])
def test_a_closed_drain_discards_what_it_has_not_answered(slots: bool) -> None:
    lm = lm_with_many_ends("llama")
    decoder = Decoder(lm, DecodingSettings(batch_size=2, slots=slots))
    requests = requests_for(lm, 9, [soft_prompt(lm)])
    decoder.submit(requests)
    drain = decoder.drain(9)
    assert isinstance(drain, Generator)
    next(drain)
    drain.close()
    assert list(decoder.drain(9)) == []
    decoder.submit(requests[:2])
    assert {decoded.request.tag for decoded in decoder.drain(9)} == {0, 1}


@pytest.mark.parametrize("slots", [True, False])
def test_a_drain_that_raises_discards_what_it_has_not_answered(slots: bool) -> None:
    lm = lm_with_many_ends("llama")
    decoder = Decoder(lm, DecodingSettings(batch_size=2, slots=slots))
    requests = requests_for(lm, 3, [soft_prompt(lm)])
    with pytest.raises(UserError, match="context"):
        decoder.all([*requests, Request([20] * CONTEXT, tag=3)], 9)
    assert list(decoder.drain(9)) == []
    assert decoder.all(requests, 9) == alone(lm, requests, 9)


def test_answers_of_all_are_not_mixed_with_requests_that_wait() -> None:
    lm = lm_with_many_ends("llama")
    decoder, requests = Decoder(lm), requests_for(lm, 3, [soft_prompt(lm)])
    decoder.submit(requests[:2])
    with pytest.raises(RuntimeError, match="2 submitted requests wait"):
        decoder.all(requests[2:], 9)
    assert len(list(decoder.drain(9))) == 2
    assert decoder.all(requests[2:], 9) == alone(lm, requests[2:], 9)
