"""A checkpoint runs no code without permission, and loads only if it holds exactly the weights of its model."""

from __future__ import annotations

import builtins
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import dynamic_module_utils

from dpc.errors import UserError
from dpc.model.loading import load_lm, load_outline
from dpc.prompt.soft_prompt import SoftPrompt, save_adapter
from tests.model.checkpoints import LAYOUTS, State, edit_json, save, tiny_model, write_weights
from tests.tiny_models import ARCHITECTURES

OWN_CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Path({marker!r}).touch()


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tiny_model(), tmp_path / "model")


@pytest.fixture
def marker(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists once the code in ``folder`` has run. Every question on standard input is answered with yes."""
    path = tmp_path / "code-has-run"
    (folder / "own.py").write_text(OWN_CODE.format(marker=str(path)))
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n" * 20))
    monkeypatch.setattr(builtins, "input", lambda *_: "yes")
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return path


def declare_own_model(folder: Path, model_type: str) -> None:
    edit_json(
        folder / "config.json",
        model_type=model_type,
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    )


def declare_own_tokenizer(folder: Path, name: str | None = "OwnTokenizer") -> None:
    edit_json(
        folder / "tokenizer_config.json",
        tokenizer_class=name,
        auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]},
    )


@pytest.mark.parametrize("load", [load_lm, load_outline])
def test_a_model_that_needs_its_own_code_is_refused_without_the_flag(
    load: Callable[..., object], folder: Path, marker: Path
) -> None:
    declare_own_model(folder, "own")
    with pytest.raises(
        UserError, match=r"--model .*model: needs Python code of its own .* add --trust-remote-code"
    ) as e:
        load(str(folder))
    assert "\n" not in str(e.value)
    assert not marker.exists()


@pytest.mark.parametrize("load", [load_lm, load_outline])
def test_with_the_flag_the_code_runs_and_the_model_records_it(
    load: Callable[..., object], folder: Path, marker: Path
) -> None:
    declare_own_model(folder, "own")
    lm = load(str(folder), trust_remote_code=True)
    assert marker.exists()
    assert lm.trust_remote_code  # type: ignore[attr-defined]
    assert type(lm.model).__name__ == "OwnModel"  # type: ignore[attr-defined]


@pytest.mark.parametrize("load", [load_lm, load_outline])
def test_an_architecture_that_transformers_ships_loads_without_the_code_beside_it(
    load: Callable[..., object], folder: Path, marker: Path
) -> None:
    declare_own_model(folder, "llama")
    lm = load(str(folder))
    assert not marker.exists()
    assert not lm.trust_remote_code  # type: ignore[attr-defined]
    assert type(lm.model).__name__ == "LlamaForCausalLM"  # type: ignore[attr-defined]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("load", [load_lm, load_outline])
def test_a_tokenizer_that_needs_its_own_code_is_refused_without_the_flag(
    load: Callable[..., object], architecture: str, folder: Path, marker: Path
) -> None:
    save(tiny_model(architecture), folder)
    declare_own_tokenizer(folder)
    with pytest.raises(UserError, match=r"needs Python code of its own .* add --trust-remote-code") as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("load", [load_lm, load_outline])
def test_a_tokenizer_that_only_maps_to_its_own_code_is_refused_too(
    load: Callable[..., object], folder: Path, marker: Path
) -> None:
    declare_own_tokenizer(folder, None)
    with pytest.raises(UserError, match=r"needs Python code of its own .* add --trust-remote-code"):
        load(str(folder))
    assert not marker.exists()


@pytest.mark.parametrize("load", [load_lm, load_outline])
def test_a_known_configuration_without_a_known_model_does_not_run_the_code_beside_it(
    load: Callable[..., object], folder: Path, marker: Path
) -> None:
    edit_json(folder / "config.json", model_type="t5", auto_map={"AutoModelForCausalLM": "own.OwnModel"})
    with pytest.raises(UserError, match=r"needs Python code of its own .* add --trust-remote-code"):
        load(str(folder))
    assert not marker.exists()


def test_with_the_flag_the_code_of_a_tokenizer_runs(folder: Path, marker: Path) -> None:
    declare_own_tokenizer(folder)
    assert type(load_lm(str(folder), trust_remote_code=True).tokenizer).__name__ == "OwnTokenizer"
    assert marker.exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_an_attention_kernel_from_the_hub_counts_as_code(key: str, folder: Path) -> None:
    edit_json(folder / "config.json", **{key: "someone/kernel"})
    with pytest.raises(UserError, match=r"needs Python code of its own \(attention kernel someone/kernel\)"):
        load_lm(str(folder))


def test_a_model_with_an_adapter_beside_it_is_refused(folder: Path) -> None:
    lm = load_lm(str(folder))
    save_adapter(SoftPrompt.of(torch.zeros(3, lm.hidden_size), lm.name), lm, folder, {})
    for load in (load_lm, load_outline):
        with pytest.raises(UserError, match=r"holds an adapter .* and the adapter with --prompt"):
            load(str(folder))


def without_last_layer(state: State) -> State:
    return {name: value for name, value in state.items() if ".layers.1." not in name}


def with_another_weight(state: State) -> State:
    return {**state, "model.layers.7.self_attn.q_proj.weight": torch.zeros(2, 2)}


def with_a_narrow_head(state: State) -> State:
    return {**state, "lm_head.weight": state["lm_head.weight"][:-3].clone()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_last_layer, r"9 missing \(model\.layers\.1\.input_layernorm\.weight, .*, \.\.\.\)"),
        (with_another_weight, r"1 unexpected \(model\.layers\.7\.self_attn\.q_proj\.weight\)"),
        (with_a_narrow_head, r"1 of another shape \(lm_head\.weight \[255, 32\] instead of \[258, 32\]\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name_and_number(
    change: Callable[[State], State], message: str, layout: str, folder: Path
) -> None:
    write_weights(folder, change(tiny_model().state_dict()), layout)
    with pytest.raises(UserError, match=f"--model .*: weights and config.json do not match: {message}") as caught:
        load_lm(str(folder))
    assert "\n" not in str(caught.value)


def test_a_config_with_fewer_layers_than_the_checkpoint_is_refused(folder: Path) -> None:
    edit_json(folder / "config.json", num_hidden_layers=1)
    with pytest.raises(UserError, match=r"9 unexpected \(model\.layers\.1\."):
        load_lm(str(folder))


def test_a_shard_that_lacks_a_weight_of_its_index_is_refused(folder: Path) -> None:
    state = tiny_model().state_dict()
    write_weights(folder, state, "safetensors shards")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    write_weights(folder, {name: value for name, value in state.items() if "q_proj" not in name}, "safetensors shards")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"2 missing \(model\.layers\.0\.self_attn\.q_proj\.weight, "):
        load_lm(str(folder))


def test_a_tied_checkpoint_that_config_calls_untied_is_refused(tmp_path: Path) -> None:
    folder = save(tiny_model(tie_word_embeddings=True), tmp_path)
    edit_json(folder / "config.json", tie_word_embeddings=False)
    with pytest.raises(UserError, match=r"1 missing \(lm_head\.weight\)"):
        load_lm(str(folder))


def test_an_untied_checkpoint_that_config_calls_tied_is_refused(folder: Path) -> None:
    edit_json(folder / "config.json", tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"1 tied in config.json but different \(lm_head.weight and model.embed_tokens"):
        load_lm(str(folder))


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gpt_oss"])
@pytest.mark.parametrize("tied", [False, True])
def test_what_transformers_saves_loads_with_the_same_numbers(architecture: str, tied: bool, tmp_path: Path) -> None:
    model = tiny_model(architecture, tie_word_embeddings=tied)
    lm = load_lm(str(save(model, tmp_path)))
    ids = torch.arange(2, 9)[None]
    assert torch.equal(lm.model(ids).logits, model(ids).logits)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_that_holds_tied_weights_twice_loads(layout: str, tmp_path: Path) -> None:
    model = tiny_model(tie_word_embeddings=True)
    folder = save(model, tmp_path)
    assert "lm_head.weight" in model.state_dict()
    write_weights(folder, model.state_dict(), layout)
    assert load_lm(str(folder)).revision


def test_buffers_of_older_versions_of_an_architecture_are_ignored(folder: Path) -> None:
    state = tiny_model().state_dict()
    old = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(4) for layer in range(2)}
    plain = load_lm(str(folder)).revision
    write_weights(folder, {**state, **old})
    assert load_lm(str(folder)).revision == plain


def test_a_checkpoint_without_the_prefix_of_its_base_model_loads(tmp_path: Path) -> None:
    model = tiny_model("gpt2", tie_word_embeddings=True)
    folder = save(model, tmp_path)
    state = {name.removeprefix("transformer."): value for name, value in model.state_dict().items()}
    write_weights(folder, {name: value for name, value in state.items() if name != "lm_head.weight"})
    ids = torch.arange(2, 9)[None]
    assert torch.equal(load_lm(str(folder)).model(ids).logits, model(ids).logits)
