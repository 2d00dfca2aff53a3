"""PEFT and transformers alone load what dpc writes, with its model, and compute the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from dpc.cli import run_command
from dpc.model.lm import FrozenLM
from dpc.model.loading import load_lm
from dpc.prompt.base_model import loadable_base
from dpc.prompt.soft_prompt import init_prompt, save_adapter
from tests.model.checkpoints import save, tiny_model

IDS = torch.arange(5, 15)[None]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
    pytest.mark.filterwarnings("ignore:You are trying to modify a model with PEFT:UserWarning"),
]


def tuned(lm: FrozenLM, folder: Path) -> torch.Tensor:
    """Saves a prompt; returns the logits of ``IDS`` behind it."""
    prompt = init_prompt(lm, 4, "sample-vocab", 0)
    save_adapter(prompt, lm, folder, {})
    with torch.no_grad():
        embedded = torch.cat([prompt.vectors, lm.embed(IDS)[0]])[None]
        return lm.model(inputs_embeds=embedded).logits


def check(folder: Path, expected: torch.Tensor) -> None:
    model = peft.AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.allclose(model(input_ids=IDS).logits, expected, atol=1e-5)


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        peft.get_peft_model(load_lm("zoo").model, config).save_pretrained(tmp_path / "lora")
    return tmp_path / "lora"


def test_auto_peft_loads_a_prompt_of_the_embedded_model(tmp_path: Path) -> None:
    check(tmp_path, tuned(load_lm("zoo"), tmp_path))


def test_auto_peft_loads_a_prompt_of_a_folder_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tiny_model(), tmp_path / "model")
    expected = tuned(load_lm("model"), tmp_path / "prompt")
    monkeypatch.chdir(tmp_path / "prompt")
    check(tmp_path / "prompt", expected)


def test_auto_peft_loads_a_prompt_over_an_adapter_with_it(lora: Path, tmp_path: Path) -> None:
    check(tmp_path / "prompt", tuned(load_lm("zoo", adapter=str(lora)), tmp_path / "prompt"))


def test_a_model_of_the_hub_is_named_with_its_commit() -> None:
    lm = replace(load_lm("zoo"), name="owner/name")
    lm.model.config._commit_hash = "1" * 40
    assert loadable_base(lm) == ("owner/name", "1" * 40)


@pytest.mark.parametrize("adapted", [False, True])
def test_the_readme_of_a_prompt_loads_it_on_another_machine(
    adapted: bool, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "prompt"
    expected = tuned(load_lm("zoo", adapter=str(lora) if adapted else None), folder)
    edited = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": "moved"}
    (folder / "adapter_config.json").write_text(json.dumps(edited))
    readme = (folder / "README.md").read_text()
    assert run_command(["zoo", "path"]) == 0
    base = capsys.readouterr().out.strip()
    code = readme.split("```python\n")[1].split("```")[0]
    code = code.replace('"BASE"', repr(base)).replace('"FOLDER"', repr(str(folder)))
    names: dict[str, peft.PeftModel] = {}
    exec(code, names)
    with torch.no_grad():
        assert torch.allclose(names["model"].eval()(input_ids=IDS).logits, expected, atol=1e-5)
    assert AutoModelForCausalLM.from_pretrained(base).config.vocab_size == load_lm("zoo").vocab_size


def test_a_readme_of_the_user_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    tuned(load_lm("zoo"), tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
