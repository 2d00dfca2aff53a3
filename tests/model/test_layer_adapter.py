"""A LoRA adapter under the soft prompt: PEFT's own answers; what does not fit is refused without weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from dpc.engine import Decoder, Request
from dpc.engine.plain import greedy
from dpc.errors import UserError
from dpc.flow.saliency import prompt_saliency
from dpc.model.lm import FrozenLM
from dpc.model.loading import load_lm, load_outline
from dpc.model.wrap import wrap_model
from dpc.prompt.soft_prompt import init_prompt, load_adapter, save_adapter
from dpc.settings import Settings
from tests.eager_oracle import instance, layer_errors, oracle, prompt_columns
from tests.model.checkpoints import save, tiny_model
from tests.tiny_models import byte_tokenizer

NEW = 20
QUESTIONS = ("Tom has 8 pens. He buys 3 more.", "A box holds 6 eggs. How many eggs are in 4 boxes?")
TWO = ["q_proj", "v_proj"]
WEIGHTS = "adapter_model.safetensors"
UNKNOWN = "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight"

CONFIGS: dict[str, Callable[[], peft.PeftConfig]] = {
    "lora": lambda: peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
    "dora": lambda: peft.LoraConfig(task_type="CAUSAL_LM", target_modules=TWO, use_dora=True),
}
MORE: dict[str, Callable[[], peft.PeftConfig]] = {
    "rslora on two layers": lambda: peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=TWO, use_rslora=True, r=4, layers_to_transform=[1, 2]
    ),
    "lora and whole embeddings": lambda: peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=TWO, modules_to_save=["embed_tokens"]
    ),
    "lora of embeddings": lambda: peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["embed_tokens", "q_proj"]),
    "lora and tokens": lambda: peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=TWO, trainable_token_indices=[40, 41, 42, 43]
    ),
    "pissa": lambda: peft.LoraConfig(task_type="CAUSAL_LM", target_modules=TWO, init_lora_weights="pissa"),
    "adalora": lambda: peft.AdaLoraConfig(task_type="CAUSAL_LM", target_modules=TWO, total_step=10),
    "ia3": lambda: peft.IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "loha": lambda: peft.LoHaConfig(task_type="CAUSAL_LM", target_modules=TWO),
    "lokr": lambda: peft.LoKrConfig(task_type="CAUSAL_LM", target_modules=TWO),
    "oft": lambda: peft.OFTConfig(task_type="CAUSAL_LM", target_modules=TWO, oft_block_size=8),
    "hra": lambda: peft.HRAConfig(task_type="CAUSAL_LM", target_modules=TWO),
    "ln_tuning": lambda: peft.LNTuningConfig(task_type="CAUSAL_LM", target_modules=["norm"]),
}
# PEFT's advice for training, and its words for position ids that it drops.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
    pytest.mark.filterwarnings("ignore:You are trying to modify a model with PEFT for a second time:UserWarning"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning"),
]


def trained(model: PreTrainedModel, config: peft.PeftConfig) -> peft.PeftModel:
    """A PEFT model whose adapter changes answers, as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = peft.get_peft_model(model, config)
        for name, parameter in made.named_parameters():
            if parameter.requires_grad and "modules_to_save" not in name:
                parameter.data += torch.randn_like(parameter) * (3 if "lora_E" in name else 0.15)
    return made.eval()


def saved(folder: Path, config: peft.PeftConfig) -> Path:
    trained(load_lm("zoo").model, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("lora"), CONFIGS["lora"]())


@pytest.fixture(scope="module")
def prompt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A soft prompt that PEFT alone made."""
    folder = tmp_path_factory.mktemp("prompt")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6, prompt_tuning_init="SAMPLE_VOCAB")
    trained(load_lm("zoo").model, config).save_pretrained(folder)
    return folder


def peft_answers(adapter: Path, prompt: Path | None, lm: FrozenLM) -> list[list[int]]:
    """New tokens of PEFT's own ``generate``, a question at a time; the prompt's vectors in front of the embeddings."""
    model = peft.PeftModel.from_pretrained(load_lm("zoo").model, adapter).eval()
    vectors = torch.zeros(0, lm.hidden_size) if prompt is None else load_file(prompt / WEIGHTS)["prompt_embeddings"]
    answers = []
    for question in QUESTIONS:
        embedded = model.get_input_embeddings()(torch.tensor(lm.encode(question)))
        given = torch.cat([vectors, embedded])[None]
        with torch.no_grad():
            [new] = model.generate(
                inputs_embeds=given,
                attention_mask=torch.ones(1, given.shape[1], dtype=torch.long),
                max_new_tokens=NEW,
                do_sample=False,
            )
        answers.append(without_end(new.tolist(), lm))
    return answers


def without_end(ids: list[int], lm: FrozenLM) -> list[int]:
    return ids[: ids.index(lm.end_ids[0])] if lm.end_ids[0] in ids else ids


def our_answers(lm: FrozenLM, prompt: Path | None) -> list[list[int]]:
    return [list(made.ids) for made in Decoder(lm, Settings().decoding).all(requests(lm, prompt), NEW)]


def plain_answers(lm: FrozenLM, prompt: Path | None) -> list[list[int]]:
    return [list(made.ids) for made in greedy(lm, requests(lm, prompt), NEW)]


def requests(lm: FrozenLM, prompt: Path | None) -> list[Request]:
    soft_prompt = None if prompt is None else load_adapter(lm, prompt)
    return [Request(lm.encode(question), soft_prompt) for question in QUESTIONS]


def check_answers(config: peft.PeftConfig, prompt: Path, folder: Path) -> None:
    saved(folder, config)
    lm = load_lm("zoo", adapter=str(folder))
    expected = peft_answers(folder, None, lm)
    assert our_answers(lm, prompt) == peft_answers(folder, prompt, lm)
    assert plain_answers(lm, None) == expected
    assert plain_answers(load_lm("zoo"), None) != expected


@pytest.mark.parametrize("kind", CONFIGS)
def test_answers_over_an_adapter_are_those_of_pefts_generate(kind: str, prompt: Path, tmp_path: Path) -> None:
    check_answers(CONFIGS[kind](), prompt, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MORE)
def test_answers_over_other_adapters_are_those_of_pefts_generate(kind: str, prompt: Path, tmp_path: Path) -> None:
    check_answers(MORE[kind](), prompt, tmp_path)


def test_saliency_over_an_adapter_is_that_of_eager_attention(lora: Path) -> None:
    lm = load_lm("zoo", adapter=str(lora))
    case = instance(lm)
    [found] = prompt_saliency(lm, case[0], [case[1]], [case[2]])
    assert layer_errors(found.scores, prompt_columns(oracle(lm, case))) < 1e-4
    [without] = prompt_saliency(load_lm("zoo"), case[0], [case[1]], [case[2]])
    assert layer_errors(found.scores, without.scores) > 0.1


def test_the_fingerprint_is_of_weights_and_adapter(lora: Path, tmp_path: Path) -> None:
    lm = load_lm("zoo", adapter=str(lora))
    in_memory = peft.PeftModel.from_pretrained(load_lm("zoo").model, lora)
    assert wrap_model(in_memory, lm.tokenizer).revision == lm.revision
    assert load_lm("zoo", adapter=str(lora), dtype="float64").revision == lm.revision
    assert load_lm("zoo").revision == wrap_model(load_lm("zoo").model, lm.tokenizer).revision != lm.revision

    # Another scaling is another model, and another dropout is not.
    for changes, same in (({"lora_alpha": 9}, False), ({"lora_dropout": 0.5}, True)):
        copied = tmp_path / next(iter(changes))
        copied.mkdir()
        (copied / "adapter_model.safetensors").write_bytes((lora / "adapter_model.safetensors").read_bytes())
        config = json.loads((lora / "adapter_config.json").read_text())
        (copied / "adapter_config.json").write_text(json.dumps(config | changes))
        assert (load_lm("zoo", adapter=str(copied)).revision == lm.revision) is same
    other = saved(tmp_path / "other", CONFIGS["dora"]())
    assert load_lm("zoo", adapter=str(other)).revision != lm.revision


def test_a_peft_model_is_wrapped_with_its_adapter(lora: Path, prompt: Path) -> None:
    model = peft.PeftModel.from_pretrained(load_lm("zoo").model, lora)
    lm = wrap_model(model, load_lm("zoo").tokenizer, "mine")
    assert lm.model is model.get_base_model()
    assert lm.title == "mine with adapter default"
    # PEFT's own soft prompt on the same model, all in memory.
    both = peft.PeftModel.from_pretrained(model.get_base_model(), prompt).eval()
    assert wrap_model(both, lm.tokenizer).revision == lm.revision
    ids = torch.tensor([lm.encode(QUESTIONS[0])])
    with torch.no_grad():
        [made] = both.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
    answers = plain_answers(lm, prompt)
    assert answers[0] == without_end(made[ids.shape[1] :].tolist(), lm)
    # As transformers loads a folder with an adapter.
    theirs = load_lm("zoo").model
    theirs.load_adapter(str(lora))
    assert plain_answers(wrap_model(theirs, lm.tokenizer), prompt) == answers
    theirs.disable_adapters()
    with pytest.raises(UserError, match="expected one active adapter, found disabled adapters"):
        wrap_model(theirs, lm.tokenizer)


def test_two_active_adapters_are_refused_in_memory() -> None:
    model = trained(load_lm("zoo").model, CONFIGS["lora"]())
    model.add_adapter("second", CONFIGS["lora"]())
    assert wrap_model(model, load_lm("zoo").tokenizer).adapter is not None
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(UserError, match="expected one active adapter, found several"):
        wrap_model(model, load_lm("zoo").tokenizer)


def test_a_prompt_belongs_to_the_model_with_the_adapter(lora: Path, tmp_path: Path) -> None:
    lm = load_lm("zoo", adapter=str(lora))
    save_adapter(init_prompt(lm, 4, "sample-vocab", 0), lm, tmp_path, {})
    assert load_adapter(lm, tmp_path).base_model == "zoo"
    assert json.loads((tmp_path / "dpc.json").read_text())["adapter"] == str(lora)
    with pytest.raises(
        UserError, match=rf"tuned on model 'zoo with adapter {lora}', which is not model 'zoo' \(weights"
    ):
        load_adapter(load_lm("zoo"), tmp_path)


def test_an_adapter_that_changes_after_loading_is_noticed(tmp_path: Path) -> None:
    folder = saved(tmp_path, CONFIGS["dora"]())
    lm, weights = load_lm("zoo", adapter=str(folder)), folder / "adapter_model.safetensors"
    weights.touch()
    lm.verify_unchanged()
    save_file({name: value * 2 for name, value in load_file(weights).items()}, weights)
    with pytest.raises(UserError, match=r"--adapter .* its weights changed after they were loaded"):
        lm.verify_unchanged()
    assert load_lm("zoo").verify_unchanged() is None


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    weights = folder / "adapter_model.safetensors"
    save_file(change(load_file(weights)), weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: dict(list(held.items())[1:]), r"does not fit the model \(it lacks weights of .*lora"),
        (
            lambda held: held | {"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": torch.zeros(8, 128)},
            "it has",
        ),
        (
            lambda held: {n: v[..., :-1].contiguous() for n, v in held.items()},
            r"does not fit the model \(size mismatch",
        ),
        (
            lambda held: held | {"base_model.model.model.embed_tokens.weight": torch.zeros(9, 128)},
            r"does not fit the model; its vocabulary is another one \(size mismatch for",
        ),
        (lambda held: {name: value * torch.nan for name, value in held.items()}, "holds values that are not finite"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_without_weights(
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], message: str, lora: Path, tmp_path: Path
) -> None:
    for path in lora.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rewrite(tmp_path, change)
    for load in (load_outline, load_lm):
        with pytest.raises(UserError, match=message) as caught:
            load("zoo", adapter=str(tmp_path))
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)


def test_an_adapter_of_another_width_names_the_model_it_was_trained_on(tmp_path: Path) -> None:
    save(tiny_model(), tmp_path / "narrow")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "narrow")
    trained(model, CONFIGS["dora"]()).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match=rf"size mismatch .* it was trained on {tmp_path / 'narrow'}"):
        load_outline("zoo", adapter=str(tmp_path / "adapter"))
    assert load_outline(str(tmp_path / "narrow"), adapter=str(tmp_path / "adapter")).revision == ""


def test_what_is_no_adapter_of_layers_is_refused_by_name(prompt: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a soft prompt \(PROMPT_TUNING\); give it with --prompt"):
        load_outline("zoo", adapter=str(prompt))
    refused = {
        "PREFIX_TUNING adapter, expected one": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        "ADAPTION_PROMPT adapter, expected": peft.AdaptionPromptConfig(
            task_type="CAUSAL_LM", adapter_len=3, adapter_layers=1
        ),
        "activated LoRA, which acts only after": peft.LoraConfig(
            task_type="CAUSAL_LM", target_modules=TWO, alora_invocation_tokens=[4]
        ),
    }
    for number, (message, config) in enumerate(refused.items()):
        model = peft.get_peft_model(load_lm("zoo").model, config)
        model.save_pretrained(tmp_path / str(number))
        with pytest.raises(UserError, match=message):
            load_outline("zoo", adapter=str(tmp_path / str(number)))
        with pytest.raises(UserError, match=message):
            wrap_model(model, byte_tokenizer())
    with pytest.raises(UserError, match="--adapter nowhere: no such folder"):
        load_lm("zoo", adapter="nowhere")


def test_an_adapter_trained_on_another_model_is_told(lora: Path) -> None:
    adapter = load_outline("zoo", adapter=str(lora)).adapter
    assert adapter is not None
    assert str(adapter.trained_on).endswith("zoo/model")
    assert adapter.other_base("zoo") is None
    assert replace(adapter, trained_on="a/b").other_base("a/b") is None
    told = replace(adapter, trained_on="a/b").other_base("a/c")
    assert told == f"--adapter {lora} was trained on a/b, and is used on a/c, whose layers have the same shapes"
