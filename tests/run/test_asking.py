"""Each method asks as it should: with a prompt in its format, without one in the template or after examples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

import dpc
from dpc.cli import run_command
from dpc.engine import Decoder, Request
from dpc.errors import UserError
from dpc.methods import get_methods
from dpc.model.lm import FrozenLM
from dpc.prompt.asked import asked_alone, asked_with, asked_with_all, unrecorded_note
from dpc.prompt.soft_prompt import SoftPrompt, load_adapter, save_adapter
from dpc.records.directory import RunDirectory
from dpc.records.results import read_results
from dpc.run.data import Data, load_shots
from dpc.run.evaluate import until_next_question
from dpc.run.recipes import draft_recipe
from dpc.settings import Settings, TaskSettings, parse_settings
from dpc.tasks import get_task
from dpc.types import Answer, Cost, Generation
from tests.chat_models import TURN_END, chat_lm
from tests.tiny_rows import write_rows

GSM8K = get_task("gsm8k")


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return chat_lm()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows("gsm8k", tmp_path_factory.mktemp("rows") / "gsm8k")


@pytest.fixture(scope="module")
def folder(lm: FrozenLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    lm.model.save_pretrained(path)
    lm.tokenizer.save_pretrained(path)
    return path


def tuned(lm: FrozenLM, folder: Path, chat: str) -> SoftPrompt:
    asked = asked_alone(lm, chat)  # type: ignore[arg-type]
    vectors = torch.randn(3, lm.hidden_size, generator=torch.Generator().manual_seed(1))
    save_adapter(SoftPrompt.of(vectors, lm.name), asked, folder, {})
    return load_adapter(lm, folder)


def settings(*assignments: str) -> Settings:
    return parse_settings(["decoding.max_new_tokens=6", *assignments], {})


def test_a_prompt_is_asked_in_the_format_it_was_tuned_in(lm: FrozenLM, tmp_path: Path) -> None:
    chat, raw = tuned(lm, tmp_path / "chat", "on"), tuned(lm, tmp_path / "raw", "off")
    assert (chat.format, raw.format) == ("chat", "raw")
    assert [str(asked_with(lm, prompt, "auto").asking) for prompt in (chat, raw)] == ["chat, 0-shot", "raw, 0-shot"]
    assert asked_with(lm, chat, "on").asking == asked_with(lm, chat, "auto").asking
    with pytest.raises(UserError, match=r"task.chat=off: the prompt .* was tuned in the chat format"):
        asked_with(lm, chat, "off")
    with pytest.raises(UserError, match=r"task.chat=on: the prompt .* was tuned in the raw format"):
        asked_with(lm, raw, "on")


def test_prompts_of_two_formats_are_not_used_together(lm: FrozenLM, tmp_path: Path) -> None:
    chat, raw = tuned(lm, tmp_path / "chat", "on"), tuned(lm, tmp_path / "raw", "off")
    assert asked_with_all(lm, chat, [chat], "auto").asking == asked_with(lm, chat, "auto").asking
    with pytest.raises(UserError, match=r"raw': is asked raw, but .*chat' chat; give prompts of one format"):
        asked_with_all(lm, chat, [chat, raw], "auto")


def test_a_prompt_for_another_chat_template_is_refused(lm: FrozenLM, tmp_path: Path) -> None:
    tuned(lm, tmp_path, "on")
    other = chat_lm(f"{lm.tokenizer.chat_template} ")
    with pytest.raises(UserError, match=r"which is not model 'tiny-chat' .chat template "):
        load_adapter(other, tmp_path)


def test_an_adapter_of_peft_is_asked_raw_and_a_note_says_so(lm: FrozenLM, tmp_path: Path) -> None:
    tuned(lm, tmp_path, "on")
    (tmp_path / "dpc.json").unlink()
    prompt = load_adapter(lm, tmp_path)
    assert str(asked_with(lm, prompt, "auto").asking) == "raw, 0-shot"
    assert "set task.chat=on" in str(unrecorded_note(lm, prompt, "auto"))
    assert str(asked_with(lm, prompt, "on").asking) == "chat, 0-shot"
    assert unrecorded_note(lm, prompt, "on") is None
    assert unrecorded_note(chat_lm(None), prompt, "auto") is None


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
def test_answers_in_the_template_are_those_of_pefts_generate(lm: FrozenLM, tmp_path: Path) -> None:
    prompt = tuned(lm, tmp_path, "on")
    asked = asked_with(lm, prompt, "auto")
    texts = ["How many?", f"Is {TURN_END} a word?"]
    made = Decoder(asked).all([Request(asked.encode(text), prompt) for text in texts], 8)
    model = peft.PeftModel.from_pretrained(chat_lm().model, tmp_path)
    for text, answer in zip(texts, made, strict=True):
        ids = lm.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=False,
            sanitize_control_tokens=True,
        )
        mask = torch.ones_like(ids)
        found = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
        written = found[0, ids.shape[1] :].tolist() if found.shape[1] > 8 else found[0].tolist()
        assert tuple(written[: len(answer.ids)]) == answer.ids


def test_the_template_belongs_to_the_question_in_saliency(lm: FrozenLM, tmp_path: Path) -> None:
    prompt = tuned(lm, tmp_path, "on")
    found = dpc.saliency(lm, "1 and 1?", prompt=prompt, rationale="2", task="gsm8k")
    asked = asked_with(lm, prompt, "auto").encode("Question: 1 and 1?\nAnswer:")
    assert list(found.part.values) == ["question"] * len(asked) + ["rationale"]
    assert "".join(found.token.values[: len(asked)]) == lm.decode(asked, special=True)
    assert found.sizes["virtual_token"] == 3


def test_worked_examples_are_the_first_train_rows_and_never_rows_to_answer(rows: Path) -> None:
    test = Data.load(GSM8K, "test", str(rows))
    train = GSM8K.load("train", str(rows))
    shots = load_shots(GSM8K, str(rows), TaskSettings(shots=3), test)
    assert [(s.id, s.question, s.target) for s in shots.rows] == [
        (e.id, f"Question: {e.question}\nAnswer:", f" {e.rationale}") for e in train[:3]
    ]
    assert shots.header == "Question:"
    file = str(rows / "test.jsonl")
    with pytest.raises(UserError, match=r"task.shots=2: gsm8k/test/\d is among the worked examples and among the rows"):
        load_shots(GSM8K, file, TaskSettings(shots=2), Data.load(GSM8K, "test", file))
    with pytest.raises(UserError, match=r"task.shots=99: .* train rows; set at most that many"):
        load_shots(GSM8K, str(rows), TaskSettings(shots=99), test)


def test_an_answer_is_cut_in_text_and_tokens_and_its_cost_is_kept(lm: FrozenLM, rows: Path) -> None:
    shots = load_shots(GSM8K, str(rows), TaskSettings(shots=1))
    asked = asked_alone(lm, "off", shots)
    text = " #### 5\n\nQuestion: 6?"
    ids = tuple(lm.encode_continuation(text))
    whole = Answer(Generation(ids, text, "length"), None, None, Cost(3, 0, len(ids), 0.5))
    cut = until_next_question(asked, whole)
    assert (cut.text, lm.decode(cut.first.ids), cut.first.finish) == (" #### 5", " #### 5", "eos")
    assert cut.cost == whole.cost
    assert until_next_question(lm, whole) is whole


def evaluate(lm: FrozenLM, rows: Path, output: Path, prompt: SoftPrompt, **chosen: Any) -> dpc.api.Evaluation:
    return dpc.evaluate(
        lm,
        "gsm8k",
        ["pretrained", "prompt_tuning"],
        prompt=prompt,
        output=output,
        data=str(rows),
        settings={"decoding.max_new_tokens": 6, **chosen},
    )


def test_results_records_and_tables_name_how_each_method_asked(lm: FrozenLM, rows: Path, tmp_path: Path) -> None:
    prompt = tuned(lm, tmp_path / "prompt", "off")
    found = evaluate(lm, rows, tmp_path / "run", prompt, **{"task.shots": 2})
    expected = {"pretrained": "chat, 2-shot", "prompt_tuning": "raw, 0-shot"}
    assert {name: method.asked for name, method in found.results.methods.items()} == expected
    run = RunDirectory(tmp_path / "run")
    assert {name: {r.asked for r in run.records(name).read()} for name in expected} == {
        n: {w} for n, w in expected.items()
    }
    assert {name: m.asked for name, m in read_results(run.results).methods.items()} == expected
    made_from = run.evaluated()
    assert made_from["asked_with_prompt"] == {"format": "raw", "shots": []}
    assert made_from["asked_without_prompt"]["shots"] == ["gsm8k/train/0", "gsm8k/train/1"]
    assert "chat, 2-shot" in (tmp_path / "run" / "report.html").read_text()
    assert "2-shot" in repr(found)
    with pytest.raises(UserError, match=r"asked_without_prompt.*choose another --output"):
        evaluate(lm, rows, tmp_path / "run", prompt, **{"task.shots": 1})
    run.amend("eval", lambda known: known | {"asked_without_prompt": None})
    with pytest.raises(UserError, match=r"its rows were asked chat, 2-shot, now chat, 1-shot; choose another --output"):
        evaluate(lm, rows, tmp_path / "run", prompt, **{"task.shots": 1})


def test_a_plain_run_has_no_column_for_the_format(rows: Path, tmp_path: Path) -> None:
    lm = chat_lm(None)
    found = evaluate(lm, rows, tmp_path / "run", tuned(lm, tmp_path / "prompt", "auto"))
    assert {method.asked for method in found.results.methods.values()} == {"raw, 0-shot"}
    assert "asked" not in repr(found)


def test_a_prompt_is_tuned_in_the_template_and_cannot_go_on_in_another_format(
    folder: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--set", "tuning.steps=2", "--set", "tuning.length=2", "--set", "decoding.max_new_tokens=4"]
    common = ["--model", str(folder), "--task", "gsm8k", "--data", str(rows), *small]
    prompt = str(tmp_path / "prompt")
    assert run_command(["tune", *common, "--output", prompt]) == 0
    assert json.loads((tmp_path / "prompt" / "dpc.json").read_text())["format"] == "chat"
    capsys.readouterr()
    assert run_command(["tune", *common, "--output", prompt, "--set", "task.chat=off"]) == 2
    assert "other asked" in capsys.readouterr().err
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"question": "1 and 1?"}\n')
    command = ["generate", str(asked), *common[:4], "--set", "decoding.max_new_tokens=4"]
    assert run_command([*command, "--prompt", prompt, "--method", "prompt_tuning"]) == 0
    assert json.loads(capsys.readouterr().out)["asked"] == "chat, 0-shot"
    few = [*command, "--method", "pretrained", "--data", str(rows), "--set", "task.shots=1", "--set", "task.chat=off"]
    assert run_command(few) == 0
    assert json.loads(capsys.readouterr().out)["asked"] == "raw, 1-shot"


def test_a_plan_shows_a_question_as_the_model_reads_it(
    folder: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--model", str(folder), "--task", "gsm8k", "--data", str(rows), "--output", str(tmp_path / "run")]
    options = ["--dry-run", "--set", "task.shots=1", "--set", "tuning.length=2", "--set", "tuning.init=random"]
    assert run_command([*command, *options, "--json"]) == 0
    asked = json.loads(capsys.readouterr().out)["asked"]
    assert list(asked) == ["chat, 0-shot", "chat, 1-shot"]
    assert asked["chat, 0-shot"].endswith("<|turn|>user\nQuestion: 100 and 1?\nAnswer:<|end|>\n<|turn|>assistant\n")
    assert run_command([*command, *options]) == 0
    assert asked["chat, 1-shot"] in capsys.readouterr().out
    assert run_command([*command, *options, "--set", "task.shots=10"]) == 2
    assert "tokens with 10 worked examples" in capsys.readouterr().err


def test_yaml_may_say_on_and_off(tmp_path: Path) -> None:
    for text, value in (("off", "off"), ("on", "on"), ("auto", "auto")):
        (tmp_path / "mine.yaml").write_text(f"settings:\n  task:\n    chat: {text}\n")
        draft = draft_recipe(str(tmp_path / "mine.yaml"), {}, [])
        assert (draft.recipe.settings.task.chat, draft.mistakes) == (value, ())


def test_examples_for_methods_that_take_none_are_told(lm: FrozenLM, rows: Path, tmp_path: Path) -> None:
    said: list[str] = []

    class Listener:
        def progress(self, progress: object) -> None: ...

        def say(self, text: str) -> None:
            said.append(text)

    prompt = tuned(lm, tmp_path / "prompt", "on")
    [method] = get_methods(["prompt_tuning"])
    odd = replace(GSM8K, prompt=lambda e: f"{TURN_END}{e.question}")
    chosen = {"decoding.max_new_tokens": 4, "task.shots": 2}
    dpc.evaluate(
        *(lm, odd, [method]),
        prompt=prompt,
        output=tmp_path / "run",
        data=str(rows),
        limit=1,
        settings=chosen,
        progress=Listener(),
    )
    assert any("only these get examples" in text for text in said)
    assert any(text.startswith("note: 1 questions hold text of special tokens") for text in said)
