"""``import dpc``: the command line's code as functions and values, light to import, shown well in a notebook."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch

import dpc
from dpc.cli import run_command
from dpc.errors import UserError
from dpc.flow.saliency import prompt_saliency
from dpc.methods import get_method
from dpc.methods.corruptions import KEY_TOKEN, Corruption
from dpc.methods.triggers import ALWAYS_TRIGGER, StatisticTrigger
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.run.reporter import Progress, Silent
from dpc.tasks import get_task
from dpc.types import Example
from tests.tiny_models import byte_tokenizer, tiny_lm
from tests.tiny_rows import toy_examples, toy_task, write_zoo_rows

pytestmark = pytest.mark.xdist_group("api")

PENS = "Tom has 8 pens. In January Tom buys 5 pens. How many pens does Tom have now?"
CUPS = "Ann has 2 cups. Ann finds 4 cups. How many cups does Ann have now?"
SMALL = {"tuning.steps": 4, "tuning.length": 6, "tuning.evaluate_every": 4, "tuning.dev_limit": 4}


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return dpc.load_model("zoo")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_zoo_rows(tmp_path_factory.mktemp("rows"), train=64, dev=12, test=8))


@pytest.fixture(scope="module")
def prompt(lm: FrozenLM, rows: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tuned for a few updates, and calibrated."""
    folder = tmp_path_factory.mktemp("prompt") / "tuned"
    dpc.tune(lm, "zoo", folder, data=rows, settings=SMALL)
    dpc.calibrate(lm, "zoo", prompt=folder, data=rows)
    return folder


def printed(capsys: pytest.CaptureFixture[str], *command: str) -> Any:
    capsys.readouterr()
    assert run_command([*command]) == 0
    return json.loads(capsys.readouterr().out)


PROGRAM = """
import sys, dpc
heavy = lambda: "torch" in sys.modules or "transformers" in sys.modules
print(sorted(set(dir(dpc)) & set(dpc.__all__)) == sorted(dpc.__all__), heavy())
try:
    dpc.evalute
except AttributeError as error:
    print(error, heavy())
print(dpc.Task.__name__, heavy())
print(dpc.generate.__name__, heavy())
"""


def test_importing_the_package_loads_no_torch_before_a_function_is_used() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "True False",
        "module 'dpc' has no attribute 'evalute' False",
        "Task False",
        "generate True",
    ]


def test_every_public_name_is_there_and_says_what_it_is() -> None:
    for name in dpc.__all__:
        assert getattr(dpc, name).__doc__, name


def test_tuning_goes_on_and_gives_the_prompt_that_it_wrote(
    lm: FrozenLM, rows: str, prompt: Path, tmp_path: Path
) -> None:
    class Watch(Silent):
        def progress(self, progress: Progress) -> None:
            if progress.done == 3:
                raise KeyboardInterrupt

    checkpoints = SMALL | {"tuning.checkpoint_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        dpc.tune(lm, "zoo", tmp_path / "prompt", data=rows, settings=checkpoints, progress=Watch())
    tuned = dpc.tune(lm, "zoo", str(tmp_path / "prompt"), data=rows, settings=checkpoints)
    assert tuned == dpc.load_prompt(lm, tmp_path / "prompt") == dpc.load_prompt(lm, str(prompt))
    with pytest.raises(UserError, match="seed"):
        dpc.tune(lm, "zoo", tmp_path / "prompt", data=rows, settings=checkpoints | {"tuning.seed": 5})


def test_calibrating_stores_a_threshold_beside_the_prompt(
    lm: FrozenLM, rows: str, prompt: Path, tmp_path: Path
) -> None:
    stored = json.loads((prompt / "calibration.json").read_text())
    again = dpc.calibrate(lm, "zoo", prompt=str(prompt), data=rows)
    assert (again.tau, again.n, again.curve) == (stored["tau"], 12, stored["curve"])
    [rate] = [point["trigger_rate"] for point in stored["curve"] if point["tau"] == stored["tau"]]
    assert repr(again) == f"Calibrated(tau = {again.tau:.4g}, trigger rate {rate:.1%}, n=12)"
    with pytest.raises(UserError, match="was chosen on 12 rows, not 5"):
        dpc.calibrate(lm, "zoo", prompt=prompt, data=rows, limit=5)
    with pytest.raises(UserError, match="split='test'"):
        dpc.calibrate(lm, "zoo", prompt=prompt, data=rows, split="test")
    with pytest.raises(UserError, match="no such folder"):
        dpc.calibrate(lm, "zoo", prompt=tmp_path / "nowhere", data=rows)
    assert not (tmp_path / "nowhere").exists()


def test_one_question_has_one_answer_and_several_have_a_list_in_their_order(
    lm: FrozenLM, prompt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = dpc.generate(lm, PENS, prompt=prompt, tau=-1.0)
    assert one.decision is not None
    assert one.decision.triggered
    assert one.second is not None
    assert one.text == one.second.text
    assert re.fullmatch(r"Answer\(Generation\(.*\), triggered=True\)", repr(one))
    (tmp_path / "asked.jsonl").write_text(json.dumps({"question": PENS}) + "\n")
    line = printed(capsys, "generate", str(tmp_path / "asked.jsonl"), "--prompt", str(prompt), "--tau", "-1")
    assert (line["text"], line["first"]["text"]) == (one.text, one.first.text)
    assert line["decision"]["statistic"] == one.decision.statistic
    several = dpc.generate(lm, [CUPS, PENS, CUPS], prompt=prompt, tau=-1.0)
    assert [answer.text for answer in several] == [several[0].text, one.text, several[0].text]
    assert dpc.generate(lm, [], prompt=prompt) == []
    bare = dpc.generate(lm, PENS, method="pretrained")
    assert (bare.decision, bare.second) == (None, None)


def test_the_calibrated_threshold_is_used_where_none_is_given(lm: FrozenLM, prompt: Path) -> None:
    stored = json.loads((prompt / "calibration.json").read_text())
    found = dpc.generate(lm, PENS, prompt=dpc.load_prompt(lm, prompt))
    assert found.decision is not None
    assert found.decision.threshold == stored["tau"]
    with pytest.raises(UserError, match="method dpc needs a threshold"):
        dpc.generate(lm, PENS, prompt=SoftPrompt.of(dpc.load_prompt(lm, prompt).vectors, "zoo"))
    with pytest.raises(UserError, match="methods dpc need a soft prompt"):
        dpc.generate(lm, PENS)


@pytest.mark.parametrize("layers", [None, [3, 1]])
def test_saliency_is_an_array_with_named_axes(lm: FrozenLM, prompt: Path, layers: list[int] | None) -> None:
    found = dpc.saliency(lm, PENS, prompt=prompt, layers=layers)
    asked = lm.encode(get_task("zoo").prompt(Example("1", PENS, "")))
    written = dpc.generate(lm, PENS, prompt=prompt, method="prompt_tuning").first.ids
    vectors = dpc.load_prompt(lm, prompt).vectors
    [expected] = prompt_saliency(lm, vectors, [asked], [written], layers)
    assert found.dims == ("layer", "position", "virtual_token")
    assert found.shape == (len(layers or range(4)), len(asked) + len(written), 6)
    np.testing.assert_allclose(found.to_numpy(), expected.scores.numpy(), rtol=1e-4, atol=1e-12)
    assert found.coords["layer"].to_numpy().tolist() == list(expected.layers)
    assert found.coords["part"].to_numpy().tolist() == ["question"] * len(asked) + ["rationale"] * len(written)
    tokens = found.coords["token"].to_numpy().tolist()
    assert "".join(tokens[: len(asked)]) == lm.decode(asked)
    assert "".join(tokens[len(asked) :]) == lm.decode(written)
    assert found.attrs == {"loss": pytest.approx(expected.loss), "head_reduction": "abs_of_sum"}
    late = found.sel(layer=3).where(found.part == "rationale", drop=True).mean("virtual_token")
    assert late.dims == ("position",)


def test_saliency_of_a_text_of_ones_own(lm: FrozenLM, prompt: Path) -> None:
    found = dpc.saliency(
        lm, PENS, prompt=prompt, rationale=" 8 + 5 = 13", settings={"method.head_reduction": "sum_of_abs"}
    )
    written = lm.encode_continuation(" 8 + 5 = 13")
    assert int((found.part == "rationale").sum()) == len(written)
    assert found.attrs["head_reduction"] == "sum_of_abs"
    with pytest.raises(UserError, match="empty rationale"):
        dpc.saliency(lm, PENS, prompt=prompt, rationale="")


def test_a_trace_shows_its_page_in_a_notebook(lm: FrozenLM, prompt: Path) -> None:
    traced = dpc.trace(lm, PENS, prompt=prompt, tau=-1.0)
    answer = dpc.generate(lm, PENS, prompt=prompt, tau=-1.0)
    assert (traced.first, traced.second) == (answer.first, answer.second)
    assert answer.decision is not None
    assert (traced.decision.triggered, traced.decision.key_token) == (True, answer.decision.key_token)
    assert repr(traced).startswith(f"TracedQuestion({PENS[:40]!r}, triggered, answer ")
    html = traced._repr_html_()
    [page] = re.findall(r'<iframe srcdoc="([^"]*)"', html)
    assert unescape(page) == traced.page()
    assert 'id="payload"' in unescape(page)
    by_hand = dpc.trace(lm, PENS, prompt=str(prompt), tau=0.5, token=2, settings={"method.gamma": 30})
    assert by_hand.decision.key_token == 2
    assert not by_hand.arrays()["corrupted"][2].any()
    assert dpc.trace(lm, PENS, prompt=prompt, method="all_corruption").decision.triggered


def test_an_evaluation_is_that_of_the_command_line(lm: FrozenLM, rows: str, prompt: Path, tmp_path: Path) -> None:
    found = dpc.evaluate(lm, "zoo", prompt=prompt, output=tmp_path / "ours", data=rows, limit=6)
    command = ["eval", "--prompt", str(prompt), "--output", str(tmp_path / "theirs"), "--data", rows, "--limit", "6"]
    assert run_command([*command, "--methods", "prompt_tuning,dpc"]) == 0
    made = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("ours", "theirs")]
    for results in made:
        del results["made_by"]
        for method in results["methods"].values():
            del method["cost"]["seconds"]
    assert made[0] == made[1]
    assert (found.run, found.results.n, set(found.results.methods)) == (tmp_path / "ours", 6, {"prompt_tuning", "dpc"})
    assert found.results.methods["dpc"].correct == made[1]["methods"]["dpc"]["correct"]
    for name in ("report.html", "vocabulary.json", "examples.jsonl", "records/dpc.jsonl"):
        assert (tmp_path / "ours" / name).exists()
    html = found._repr_html_()
    assert html.count("<tr>") == 3
    assert "<script" not in html
    assert "prompt tuning" in repr(found)
    assert max(map(len, repr(found).splitlines())) <= 80


def test_an_evaluation_goes_on_and_is_never_mixed(lm: FrozenLM, rows: str, prompt: Path, tmp_path: Path) -> None:
    def evaluate(methods: list[str | dpc.Method], tau: float | None = 0.5) -> set[str]:
        found = dpc.evaluate(lm, "zoo", methods, prompt=prompt, output=tmp_path, data=rows, limit=3, tau=tau)
        return set(found.results.methods)

    assert evaluate(["prompt_tuning"]) == {"prompt_tuning"}
    assert evaluate(["dpc"]) == {"prompt_tuning", "dpc"}
    with pytest.raises(UserError, match=r"tau = 0\.5, now 0\.6"):
        evaluate(["dpc"], 0.6)
    halved = Corruption("halved", lambda p, _: SoftPrompt.of(p.vectors / 2, p.base_model), token=None, traces=False)
    mine = dpc.Method("halving", "every answer again", ALWAYS_TRIGGER, halved)
    assert evaluate([mine]) == {"prompt_tuning", "dpc", "halving"}
    with pytest.raises(UserError, match="has the name of one that ships with dpc"):
        evaluate([dpc.Method("dpc", "another", ALWAYS_TRIGGER, halved)])
    assert evaluate([get_method("dpc")]) == {"prompt_tuning", "dpc", "halving"}


def test_a_model_object_and_its_tokenizer_are_taken_as_they_are() -> None:
    model, tokenizer = tiny_lm("gpt2").model, byte_tokenizer()
    lm = dpc.load_model(model, tokenizer)
    assert lm.model is model
    assert dpc.load_model(lm) is lm
    assert dpc.generate(lm, "ab", method="pretrained", settings={"decoding.max_new_tokens": 4}).first.ids
    with pytest.raises(UserError, match="a model object needs its tokenizer"):
        dpc.load_model(model)


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
def test_the_prompt_of_a_peft_model_is_used_as_it_is(tmp_path: Path) -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    model: Any = peft.get_peft_model(tiny_lm("llama").model, config)
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(torch.randn(5, 32) * 0.3)
    lm = dpc.load_model(model, byte_tokenizer())
    prompt = dpc.load_prompt(lm, model)
    assert torch.equal(prompt.vectors, model.prompt_encoder["default"].embedding.weight)
    assert dpc.load_prompt(lm, prompt) is prompt
    # PEFT's own folder, without anything of ours beside it.
    model.save_pretrained(tmp_path)
    assert dpc.load_prompt(lm, tmp_path).sha256 == prompt.sha256
    settings = {"decoding.max_new_tokens": 6}
    made = [
        dpc.generate(lm, "ab", prompt=each, method="prompt_tuning", settings=settings).first.ids
        for each in (model, prompt, tmp_path)
    ]
    assert made[0] == made[1] == made[2]
    with torch.no_grad():
        asked = torch.tensor([lm.encode(get_task("zoo").prompt(Example("1", "ab", "")))])
        theirs = model.generate(input_ids=asked, max_new_tokens=6, do_sample=False)
    assert tuple(theirs[0, asked.shape[1] :].tolist())[: len(made[0])] == made[0]
    with pytest.raises(UserError, match="its vectors have 32 values, but model 'zoo' expects 128"):
        dpc.load_prompt(dpc.load_model("zoo"), model)
    lora: Any = peft.get_peft_model(tiny_lm("llama").model, peft.LoraConfig(task_type="CAUSAL_LM"))
    with pytest.raises(UserError, match="LORA"):
        dpc.load_prompt(lm, lora)


def test_a_task_and_a_method_of_ones_own_are_values(tmp_path: Path) -> None:
    lm = dpc.load_model(tiny_lm("llama").model, byte_tokenizer())
    prompt = SoftPrompt.of(torch.randn(4, 32, generator=torch.Generator().manual_seed(0)), lm.name)
    task = toy_task(examples=toy_examples(6))
    assert isinstance(task, dpc.Task)
    length = StatisticTrigger("length", lambda first: float(len(first.generation.ids)))
    method = dpc.Method("long", "long answers again", length, KEY_TOKEN)
    found = dpc.evaluate(
        lm, task, ["prompt_tuning", method], prompt=prompt, output=tmp_path / "run", split="dev", tau=6.5
    )
    assert (found.results.task, found.results.n) == ("toy", 6)
    trigger = found.results.methods["long"].trigger
    assert trigger is not None
    assert trigger.tau == 6.5
    answer = dpc.generate(lm, "ab", prompt=prompt, method=method, tau=6.5, task=task)
    assert answer.decision is not None
    assert answer.decision.statistic == len(answer.first.ids)


def test_settings_are_named_as_on_the_command_line(lm: FrozenLM, prompt: Path) -> None:
    with pytest.raises(UserError, match="did you mean gamma"):
        dpc.generate(lm, PENS, prompt=prompt, settings={"method.gama": 20})
    short = dpc.generate(
        lm, PENS, prompt=prompt, tau=-1.0, settings={"decoding.max_new_tokens": 3, "decoding.slots": False}
    )
    assert len(short.first.ids) <= 3
    assert dpc.generate(lm, PENS, prompt=prompt, tau=-1.0, settings={"decoding.max_new_tokens": None}).text
