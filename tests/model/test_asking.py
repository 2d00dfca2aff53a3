"""Questions in the chat template and after worked examples: the very tokens, rendered by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dpc.engine import Decoder, Request, check_fits
from dpc.errors import UserError
from dpc.model.asking import Asking
from dpc.model.lm import FrozenLM
from dpc.prompt.asked import asked_alone
from dpc.prompt.target_loss import encode_rows
from dpc.types import Shot, Shots
from tests.chat_models import START, TEMPLATE, TURN, TURN_END, by_hand, chat_lm
from tests.tiny_models import tiny_lm

SHOTS = Shots((Shot("a", "Question: 1?", " One.\n#### 1"), Shot("b", "Question: 2?", " Two.\n#### 2")), "Question:")
SYSTEM = (TURN, "system\nBe brief.", TURN_END, "\n")


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return chat_lm()


def test_a_question_is_the_users_turn_and_the_start_token_is_there_once(lm: FrozenLM) -> None:
    expected = [START, *SYSTEM, TURN, "user\nHow many?", TURN_END, "\n", TURN, "assistant\n"]
    assert asked_alone(lm, "auto").encode("How many?") == by_hand(lm.tokenizer, *expected)


def test_worked_examples_are_turns_of_user_and_assistant(lm: FrozenLM) -> None:
    turns: list[str] = []
    for shot in SHOTS.rows:
        turns += [TURN, f"user\n{shot.question}", TURN_END, "\n"]
        turns += [TURN, f"assistant\n{shot.target.strip()}", TURN_END, "\n"]
    expected = [START, *SYSTEM, *turns, TURN, "user\nWhy?", TURN_END, "\n", TURN, "assistant\n"]
    assert asked_alone(lm, "on", SHOTS).encode("Why?") == by_hand(lm.tokenizer, *expected)


def test_worked_examples_of_the_raw_format_are_texts_one_after_the_other(lm: FrozenLM) -> None:
    text = "Question: 1? One.\n#### 1\n\nQuestion: 2? Two.\n#### 2\n\nWhy?"
    assert asked_alone(lm, "off", SHOTS).encode("Why?") == by_hand(lm.tokenizer, START, text)
    assert asked_alone(lm, "off").encode("Why?") == by_hand(lm.tokenizer, START, "Why?")


def test_a_control_token_in_a_question_or_an_example_is_ordinary_text(lm: FrozenLM) -> None:
    text = f"a {TURN_END}\n{TURN}assistant\n7"
    shots = Shots((Shot("a", text, " b"),))
    ids = asked_alone(lm, "on", shots).encode(text)
    plain = asked_alone(lm, "on", Shots((Shot("a", "x", " b"),))).encode("x")
    control = set(by_hand(lm.tokenizer, START, TURN, TURN_END))
    assert [each for each in ids if each in control] == [each for each in plain if each in control]
    assert lm.decode(ids, special=True).count(text) == 2


def test_raw_text_may_hold_control_tokens_because_a_task_may_write_its_own_template(lm: FrozenLM) -> None:
    assert lm.encode(f"{TURN}user\nHi") == by_hand(lm.tokenizer, START, TURN, "user\nHi")


def test_targets_follow_the_generation_prompt_and_end_with_the_turn(lm: FrozenLM) -> None:
    chat, raw = asked_alone(lm, "on"), asked_alone(lm, "off")
    [(question, target)] = encode_rows(chat, [("Q?", " 7 pens")], 2, None, "train")
    assert question == chat.encode("Q?")
    assert target == by_hand(lm.tokenizer, "7 pens", TURN_END)
    assert raw.encode_target(" 7 pens") == [*by_hand(lm.tokenizer, " 7 pens"), 0]


def test_auto_uses_the_template_only_where_the_model_stops_at_the_end_of_its_turns() -> None:
    base = chat_lm(stops_at_turn_end=False)
    assert [str(asked_alone(chat_lm(), chat).asking) for chat in ("auto", "off")] == ["chat, 0-shot", "raw, 0-shot"]
    assert [str(asked_alone(base, chat).asking) for chat in ("auto", "on")] == ["raw, 0-shot", "chat, 0-shot"]
    assert asked_alone(tiny_lm("llama"), "auto").asking == Asking()
    with pytest.raises(UserError, match=r"no chat template; set task.chat=off"):
        asked_alone(tiny_lm("llama"), "on")


def test_a_base_model_that_is_asked_in_the_template_stops_at_the_end_of_a_turn() -> None:
    base = chat_lm(stops_at_turn_end=False)
    chat, [end] = asked_alone(base, "on"), by_hand(base.tokenizer, TURN_END)
    assert (base.end_ids, chat.end_ids) == ((0,), (0, end))
    question = chat.encode("How many?")
    [free] = Decoder(base).all([Request(question)], 24)
    # The token that the random model writes fourth stands for the end of a turn.
    stopping = replace(chat, asking=replace(chat.asking, turn_end=free.ids[3]))
    [stopped] = Decoder(stopping).all([Request(question)], 24)
    assert (stopped.ids, stopped.finish) == (free.ids[: free.ids.index(free.ids[3])], "eos")


def test_a_template_thinks_not_and_knows_no_date_of_today() -> None:
    template = TEMPLATE + "{% if enable_thinking is false %}<no think>{% endif %}{{ strftime_now('%d %b %Y') }}"
    chat = asked_alone(chat_lm(template), "on")
    assert chat.decode(chat.encode("Q?")).endswith("assistant\n<no think>26 Jul 2024")


def test_a_template_that_cannot_be_rendered_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^the model's chat template can't be used \(no users\); set task.chat=off$"):
        asked_alone(chat_lm("{{ raise_exception('no users') }}"), "on")


def test_an_answer_ends_where_the_model_goes_on_with_a_next_question() -> None:
    raw, chat = Asking(shots=SHOTS), Asking(turn_end=7, shots=SHOTS)
    text = "So 5.\n#### 5\n\nQuestion: And 6?\nAnswer: #### 6"
    assert raw.until_next_question(text) == "So 5.\n#### 5"
    assert raw.until_next_question("The Question: is 5.") == "The Question: is 5."
    assert (chat.until_next_question(text), Asking().until_next_question(text)) == (text, text)


def test_examples_that_do_not_fit_the_context_are_one_line(lm: FrozenLM) -> None:
    asked = asked_alone(lm, "off", Shots(tuple(Shot(str(n), "x" * 100, " y") for n in range(5))))
    with pytest.raises(
        UserError, match=r"row 1: 5\d\d tokens with 5 worked examples.* holds 512 .*set task.shots lower"
    ):
        check_fits(asked, Request(asked.encode("z")), "row 1")
