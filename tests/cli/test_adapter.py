"""``--adapter`` in commands and recipes: recorded, checked before weights are loaded, refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch

import dpc
from dpc.cli import run_command
from dpc.errors import UserError
from dpc.model.loading import load_lm

pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")


def made(folder: Path, config: peft.PeftConfig) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = peft.get_peft_model(load_lm("zoo").model, config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn_like(parameter) * 0.1
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    return made(folder, peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "up_proj"]))


@pytest.fixture(scope="module")
def prompt(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=8)
    return made(tmp_path_factory.mktemp("adapters") / "p-tuning", config)


def test_a_run_records_the_adapter_of_its_model(lora: str, prompt: str, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["eval", "--output", str(out), "--data", str(rows), "--prompt", prompt, "--limit", "3"]
    assert run_command([*command, "--adapter", lora, "--methods", "prompt_tuning"]) == 0
    [stage] = [json.loads((out / "run.json").read_text())["stages"]["eval"]]
    lm = dpc.load_model("zoo", adapter=lora)
    assert lm.adapter is not None
    assert stage["from"]["model"] == {
        "name": "zoo",
        "revision": lm.revision,
        "dtype": "float32",
        "adapter": lora,
        "adapter_sha256": lm.adapter.sha256,
    }
    assert json.loads((out / "results.json").read_text())["model"] == f"zoo with adapter {lora}"
    # The same folder without the adapter is another run.
    assert run_command([*command, "--methods", "prompt_tuning"]) == 2


def test_a_recipe_names_an_adapter_that_a_dry_run_checks(
    lora: str, prompt: str, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    command = ["run", str(recipe), "--dry-run", "--output", str(tmp_path / "out"), "--data", str(rows)]
    recipe.write_text(f"adapter: {lora}\n")
    assert run_command(command) == 0
    recipe.write_text(f"adapter: {prompt}\n")
    assert run_command(command) == 2
    assert f"--adapter {prompt}: is a soft prompt (P_TUNING); give it with --prompt" in capsys.readouterr().err
    assert run_command([*command, "--adapter", lora]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--adapter", "LORA", "--adapter", "PROMPT"], "--adapter was given 2 times (LORA, PROMPT): expected one"),
        (["--adapter", "./nowhere"], "--adapter ./nowhere: no such folder"),
        (["--adapter", "PROMPT"], "--adapter PROMPT: is a soft prompt (P_TUNING); give it with --prompt"),
        (
            ["--prompt", "LORA"],
            "prompt 'LORA': is a LORA adapter, which changes the model's layers; give",
        ),
        (["--model", "LORA"], "--model LORA: holds an adapter (adapter_config.json), expected a model alone; give the"),
    ],
)
def test_an_adapter_in_the_wrong_place_is_told_where_it_belongs(
    options: list[str], message: str, lora: str, prompt: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "questions.jsonl").write_text('{"question": "Why?"}\n')
    given = [{"LORA": lora, "PROMPT": prompt}.get(option, option) for option in options]
    assert run_command(["generate", str(tmp_path / "questions.jsonl"), "--method", "prompt_tuning", *given]) == 2
    captured = capsys.readouterr()
    assert message.replace("LORA", lora, 1).replace("PROMPT", prompt) in captured.err
    assert len(captured.err.splitlines()) == 1


def test_a_model_object_brings_its_own_adapter(lora: str) -> None:
    with pytest.raises(UserError, match="needs a model's name; a model object brings its adapter"):
        dpc.load_model(load_lm("zoo").model, load_lm("zoo").tokenizer, adapter=lora)
