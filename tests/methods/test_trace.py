"""One question traced: equal to its parts, computed once, and drawn so that nothing is lost or run."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from dpc.cli import run_command
from dpc.cli.terminal import BLOCKS, differences, heat_strip, printable, profile_strip
from dpc.engine import Decoder, Request
from dpc.errors import UserError
from dpc.flow.flow_map import flow_map
from dpc.flow.measures import accumulation_profile, key_token, rationale_influence, shallow_layers
from dpc.flow.saliency import prompt_saliency
from dpc.flow.trigger import affected_share
from dpc.methods import build_method
from dpc.methods.base import Setup
from dpc.methods.trace import BY_HAND, Tracer
from dpc.model.lm import FrozenLM, load_lm
from dpc.prompt.corruption import corrupt
from dpc.prompt.soft_prompt import SoftPrompt, init_prompt, save_adapter
from dpc.report.flow_data import read_flow
from dpc.run.maps import choose_instances, write_maps
from dpc.settings import DecodingSettings, MethodSettings, Settings
from dpc.tasks import get_task
from dpc.types import Answer, Cost, Decision, Example, Generation, Record, Score
from tests.tiny_models import tiny_lm

QUESTION, NEW_TOKENS = [40, 41, 42, 43], 14
PLAIN = DecodingSettings(slots=False, drafts=False)


@functools.cache
def lm() -> FrozenLM:
    return tiny_lm("llama", layers=4)


@functools.cache
def prompt() -> SoftPrompt:
    return SoftPrompt.of(torch.randn(5, lm().hidden_size, generator=torch.Generator().manual_seed(3)), lm().name)


def tracer(new_tokens: int = NEW_TOKENS) -> Tracer:
    return Tracer(lm(), prompt(), Settings(), new_tokens)


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
    assert decision.ratio == affected_share(influence).ratio
    assert decision.triggered == (decision.ratio > 0.4)
    assert (decision.key_token, decision.evidence["gamma"]) == (masked, 10.0 if gamma is None else gamma)
    assert (decision.evidence["token_rule"] == BY_HAND) == (token is not None)


@pytest.mark.parametrize("tau", [-1.0, 0.4, 1.0])
def test_a_trace_decides_as_the_method_does(tau: float) -> None:
    trace = tracer().trace(QUESTION, tau)
    method = build_method("dpc", Setup(prompt(), tau, MethodSettings()))
    [(_, answer)] = method.answer(Decoder(lm()), [QUESTION], NEW_TOKENS)
    assert answer.decision is not None
    assert (trace.decision.triggered, trace.decision.ratio) == (answer.decision.triggered, answer.decision.ratio)
    ours, theirs = trace.decision.evidence, answer.decision.evidence
    assert theirs.keys() <= ours.keys()
    for name, value in theirs.items():
        assert ours[name] == (value if isinstance(value, str | bool) else pytest.approx(value, rel=1e-2)), name
    if answer.second is not None:
        assert (answer.second, answer.decision.key_token) == (trace.again.second.generation, trace.again.token)


def test_another_tau_computes_nothing_and_another_corruption_only_a_second_answer() -> None:
    passes: list[int] = []
    subject = tracer()
    with lm().model.register_forward_pre_hook(lambda module, args: passes.append(1)):
        first = subject.trace(QUESTION, 0.5)
        passes.clear()
        assert subject.trace(QUESTION, 0.1).look is first.look
        assert subject.trace(QUESTION, 0.1, 10.0, first.again.token).again is first.again
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
        ((QUESTION, 0.5, None, 5), "soft token 5: expected one of the prompt's, 0 to 4"),
        ((QUESTION, 0.5, None, -1), "soft token -1"),
        ((QUESTION, 0.5, 101.0), "gamma 101"),
        (([], 0.5), "the question has no tokens"),
    ],
)
def test_what_can_not_be_traced_is_refused_in_one_line(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tracer().trace(*arguments)  # type: ignore[arg-type]


def test_a_short_rationale_is_shown_and_never_triggers() -> None:
    trace = tracer(new_tokens=3).trace(QUESTION, -1.0)
    assert (trace.decision.triggered, trace.decision.ratio) == (False, None)
    assert "shorter than 4" in trace.decision.evidence["reason"]
    assert len(trace.look.influence) == 3


def test_a_question_too_long_for_a_map_is_traced_without(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tracer().trace(QUESTION, 0.5)
    assert whole.look.flow is not None
    monkeypatch.setattr("dpc.methods.trace.fits_a_map", lambda *_: False)
    without = tracer().trace(QUESTION, 0.5)
    assert without.look.flow is None
    torch.testing.assert_close(without.look.saliency.scores, whole.look.saliency.scores, rtol=1e-3, atol=1e-9)
    assert without.decision.ratio == whole.decision.ratio


@pytest.mark.parametrize("text", ["How many 🙂 pens?\n\tשבת é", "�x", ""])
def test_the_texts_of_tokens_are_the_text(text: str) -> None:
    for model in (lm(), zoo()):
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


def record(name: str, right: tuple[bool, ...]) -> Record:
    """A record whose passes are right or not; one pass, or two."""
    passes = [Generation(tuple(range(50, 56)), "", "eos") for _ in right]
    scores = [Score(each, None, "match" if each else "mismatch") for each in right]
    answer = Answer(
        passes[0], Decision(len(right) > 1, 0.5, 0.5), passes[1] if len(right) > 1 else None, Cost(1, 1, 1, 1.0)
    )
    return Record(name, "dpc", answer, scores[0], scores[-1])


KINDS = {
    "fixed": (False, True),
    "broken": (True, False),
    "still wrong": (False, False),
    "right at once": (True,),
    "wrong at once": (False,),
}


def test_the_first_of_each_kind_is_chosen() -> None:
    some = [record(f"{name} {n}", right) for n in range(3) for name, right in reversed(KINDS.items())]
    both_right = [record("both right", (True, True))]
    chosen = choose_instances([*both_right, *some], lambda r: not r.example_id.endswith("0"))
    assert [r.example_id for r in chosen] == [f"{name} 1" for name in KINDS]
    assert [r.example_id for r in choose_instances(some[:2], lambda r: True)] == ["right at once 0", "wrong at once 0"]


def test_maps_of_chosen_instances_replace_those_of_an_earlier_prompt(tmp_path: Path) -> None:
    task = get_task("zoo")
    examples = [Example(f"zoo/{n}", f"How many {n}?", "1") for n in range(3)]
    records = [record("zoo/2", (True,)), record("zoo/1", (False, True)), record("zoo/0", (True,))]

    def write(soft_prompt: SoftPrompt, made: list[Record]) -> dict[str, bytes]:
        paths = write_maps(lm(), soft_prompt, task, examples, made, MethodSettings(), tmp_path)
        assert set(paths) == set(tmp_path.iterdir())
        return {read_flow(path)[0]: path.read_bytes() for path in paths}

    before = write(prompt(), records)
    assert list(before) == ["zoo/1", "zoo/0"]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert write(prompt(), records) == before
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    other = SoftPrompt.of(prompt().vectors * 2, lm().name)
    alone = write(prompt(), [records[2]])
    assert alone == {"zoo/0": before["zoo/0"]}
    assert write(other, [records[2]])["zoo/0"] != alone["zoo/0"]
    (tmp_path / "0.npz").write_bytes(b"torn")
    assert write(other, [records[2]]).keys() == {"zoo/0"}
    _, found = read_flow(tmp_path / "0.npz")
    ids = lm().encode(task.prompt(examples[0]))
    own = flow_map(lm(), other.vectors, ids, records[2].answer.first.ids)
    np.testing.assert_allclose(found.saliency, own.saliency.numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.attention, own.attention.numpy(), rtol=1e-5)
    assert "".join(found.tokens[5 : 5 + len(ids)]) == task.prompt(examples[0])


WORDS = st.text(st.characters(exclude_characters="[]{}+-", codec="utf-8"), max_size=30)


@given(WORDS, WORDS)
def test_marks_show_what_only_one_of_two_texts_has(first: str, second: str) -> None:
    marked, other = (str(text) for text in differences(first, second, plain=True))
    assert re.sub(r"\[-|-\]", "", marked) == printable(first.strip())
    assert re.sub(r"\{\+|\+\}", "", other) == printable(second.strip())
    assert re.sub(r"\[-.*?-\]", "", marked, flags=re.S) == re.sub(r"\{\+.*?\+\}", "", other, flags=re.S)
    assert ("[-" in marked or "{+" in other) == (printable(first.strip()) != printable(second.strip()))


@given(st.text(st.characters(codec="utf-8")))
def test_no_text_steers_the_terminal(text: str) -> None:
    shown = printable(f"a\x1b[31m\u202e{text}\x9b")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", shown)
    assert shown.startswith("a\\x1b[31m\\u202e")
    assert printable("é 🙂\nשבת") == "é 🙂\nשבת"


TOKENS = st.lists(
    st.tuples(st.sampled_from([" pens", "8", "\n", "漢字", "🙂", "", "\x1b", " "]), st.floats(0, 1)), min_size=1
)


@given(TOKENS, st.integers(10, 40))
def test_blocks_stand_under_their_tokens(tokens: list[tuple[str, float]], width: int) -> None:
    texts, values = [t for t, _ in tokens], [v for _, v in tokens]
    lines = str(heat_strip(texts, values, 1.0, width, plain=True)).split("\n")
    assert len(lines) % 2 == 0
    expected = "".join("⏎" if t == "\n" else printable(t) or "·" for t in texts)
    assert "".join(lines[::2]).replace(" ", "") == expected.replace(" ", "")
    for text, blocks in zip(lines[::2], lines[1::2], strict=True):
        assert set(blocks) <= set(BLOCKS)
        assert cell_len(text) <= len(blocks) <= width


def test_heat_is_a_colour_or_a_block() -> None:
    strip = heat_strip(["a", "b", "c"], [0.0, 0.5, 1.0], 1.0, 80, plain=False)
    colours = [span.style for span in strip.spans]
    assert str(strip) == "abc"
    assert len(set(map(str, colours))) == 3
    assert str(heat_strip(["a", "b", "c"], [0.0, 0.5, 1.0], 1.0, 80, plain=True)) == "abc\n▁▅█"
    assert str(heat_strip(["a", "b"], [0.0, 0.0], 0.0, 80, plain=True)) == "ab\n▁▁"


@given(st.integers(1, 120), st.integers(20, 100), st.data())
def test_the_key_token_is_marked_below_its_block(length: int, width: int, data: st.DataObject) -> None:
    values, key = [(37 * place % 101) / 100 for place in range(length)], data.draw(st.integers(0, length - 1))
    lines = profile_strip(values, key, width).split("\n")
    [place] = [index for index, line in enumerate(lines) if "^" in line]
    above, start = lines[place - 1], int(lines[place - 1].split()[0][1:])
    margin = len(above) - len(above.split()[1])
    assert start + lines[place].index("^") - margin == key
    blocks = "".join(line.split()[1] for line in lines if "^" not in line)
    assert [BLOCKS.index(block) for block in blocks] == [min(7, int(8 * v / (max(values) or 1))) for v in values]


@functools.cache
def zoo() -> FrozenLM:
    return load_lm("zoo")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untuned prompt, without a calibration."""
    path = tmp_path_factory.mktemp("prompt")
    save_adapter(init_prompt(zoo(), 6, "text", 0, "Tom has 8 pens."), zoo(), path, {})
    return path


ASKED = "Tom has 8 pens. In January Tom buys 5 pens. How many pens does Tom have now?"


def test_a_trace_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["trace", ASKED, "--prompt", str(folder), "--tau", "-1"]) == 0
    out = capsys.readouterr().out
    for words in ("tau = -1.000: triggered", "(counts)", "beta = ", "S_acc(j)", "^ p", " s: first answer"):
        assert words in out
    assert any(block in out for block in BLOCKS)
    assert "\x1b" not in out


def test_json_stands_alone_on_standard_output(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, numbers = tmp_path / "page.html", tmp_path / "numbers.npz"
    command = ["trace", ASKED, "--prompt", str(folder), "--tau", "-1", "--token", "2", "--set", "method.gamma=25"]
    assert run_command([*command, "--json", "--html", str(page), "--npz", str(numbers)]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [line.split(":")[0] for line in printed.err.splitlines()[-2:]] == ["numbers", "page"]
    assert (found["decision"]["masked_token"], found["method"]["gamma"], found["decision"]["gamma"]) == (2, 25.0, 25.0)
    assert "".join(found["first"]["tokens"]) == found["first"]["text"]
    assert found["second"]["counts"]
    assert found["answer"] == found["second"]["answer"]
    with np.load(numbers) as arrays:
        prompt_stop, first = arrays["spans"][0, 1], arrays["spans"][2, 0] - arrays["spans"][1, 0]
        np.testing.assert_allclose(arrays["scores"], arrays["saliency"][:, :, :prompt_stop], rtol=1e-6)
        assert found["decision"]["influence"] == pytest.approx(arrays["s"].tolist(), rel=1e-3)
        assert found["prompt_to_rationale"] == pytest.approx(
            arrays["scores"][:, first:].mean((1, 2)).tolist(), rel=1e-4
        )
        assert not arrays["corrupted"][2].any()
        assert int(arrays["masked_token"]) == 2
    assert b'id="payload"' in page.read_bytes()


def test_a_hostile_question_is_text_on_the_page_and_in_the_terminal(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    asked = "</script><script>alert(1)</script> \x1b[31m 🙂 \u202eשבת"
    assert run_command(["trace", asked, "--prompt", str(folder), "--tau", "0.5", "--html", str(page)]) == 0
    assert "\x1b" not in capsys.readouterr().out
    html = page.read_text("utf-8")
    assert "<script>alert" not in html
    payload = re.search(r'<script type="application/json" id="payload">(.*?)</script>', html, re.S)
    assert payload is not None
    assert json.loads(payload[1])["instances"][0]["question"] == asked


def calibrated(folder: Path, target: Path, **changes: object) -> Path:
    """A copy of the prompt with a calibration beside it, made with other settings of the method where asked."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    sha256 = json.loads((folder / "dpc.json").read_text())["prompt_sha256"]
    method = MethodSettings.model_validate(changes).deciding()
    made_from = {"prompt_sha256": sha256, "method": method, "data": {"task": "zoo"}}
    curve = [{"tau": 0.25, "accuracy": 1.0, "trigger_rate": 0.0}]
    stored = {"tau": 0.25, "n": 1, "rows": [], "curve": curve, "from": made_from}
    (target / "calibration.json").write_text(json.dumps(stored))
    return target


def test_another_corruption_keeps_the_calibrated_threshold_and_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = calibrated(folder, tmp_path / "prompt", gamma=30)
    assert run_command(["trace", ASKED, "--prompt", str(target), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["decision"]["tau"] == 0.25
    assert "note: tau was chosen with gamma 30.0" in printed.err


MISTAKES = {
    "no threshold": ([], "dpc calibrate"),
    "a token that is none": (["--tau", "0", "--token", "6"], "soft token 6: expected one of the prompt's, 0 to 5"),
    "an unknown setting": (["--tau", "0", "--set", "method.gama=3"], "gama"),
    "a page that can't be written": (["--tau", "0", "--html", "/dev/null/page.html"], "cannot write"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, named = MISTAKES[mistake]
    capsys.readouterr()
    assert run_command(["trace", ASKED, "--prompt", str(folder), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1
    assert named in printed.err


def test_a_threshold_for_another_trigger_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = calibrated(folder, tmp_path / "prompt", head_reduction="sum_of_abs")
    assert run_command(["trace", ASKED, "--prompt", str(target)]) == 2
    assert "run `dpc calibrate` again" in capsys.readouterr().err
