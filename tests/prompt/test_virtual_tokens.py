"""Every kind of PEFT adapter that is a soft prompt gives PEFT's own answers; the others are refused by name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from huggingface_hub.constants import HF_HUB_CACHE
from safetensors.torch import load_file, save_file

from dpc.engine.plain import greedy
from dpc.engine.request import Request
from dpc.errors import UserError
from dpc.model.lm import FrozenLM
from dpc.model.loading import load_lm
from dpc.model.wrap import wrap_model
from dpc.prompt.soft_prompt import load_adapter, prompt_of

LENGTH, NEW = 6, 24
QUESTIONS = ("Tom has 8 pens. He buys 3 more.", "A box holds 6 eggs. How many eggs are in 4 boxes?")
IDS = [11, 12, 13, 14, 15, 16]


def prompt_tuning() -> peft.PeftConfig:
    return peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH)


def p_tuning(encoder: str = "MLP") -> peft.PeftConfig:
    return peft.PromptEncoderConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=LENGTH,
        encoder_hidden_size=16,
        encoder_reparameterization_type=encoder,
    )


def cpt() -> peft.PeftConfig:
    kinds = {"cpt_mask": [1] * LENGTH, "cpt_tokens_type_mask": [1, 2, 2, 3, 4, 4]}
    return peft.CPTConfig(task_type="CAUSAL_LM", cpt_token_ids=IDS, **kinds)


def multitask(tasks: int = 1) -> peft.PeftConfig:
    return peft.MultitaskPromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=LENGTH, num_tasks=tasks, num_ranks=2
    )


KINDS: dict[str, Callable[[], peft.PeftConfig]] = {
    "prompt_tuning": prompt_tuning,
    "p_tuning of an MLP": p_tuning,
    "p_tuning of an LSTM": lambda: p_tuning("LSTM"),
    "cpt": cpt,
    "multitask": multitask,
}


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return load_lm("zoo")


def trained(lm: FrozenLM, config: peft.PeftConfig) -> peft.PeftModel:
    """A PEFT model on ``lm`` whose adapter is far from its start, as after training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = peft.get_peft_model(lm.model, config)
        encoder = next(iter(model.prompt_encoder.values()))
        for parameter in encoder.parameters():
            parameter.data += torch.randn_like(parameter) * 0.5
    return model.eval()


def saved(lm: FrozenLM, config: peft.PeftConfig, folder: Path) -> Path:
    trained(lm, config).save_pretrained(folder)
    return folder


def peft_answers(model: peft.PeftModel, lm: FrozenLM) -> list[list[int]]:
    """New tokens of PEFT's own ``generate``, a question at a time, without the end token."""
    answers = []
    tasks = {"task_ids": torch.tensor([0])} if model.active_peft_config.peft_type == "MULTITASK_PROMPT_TUNING" else {}
    for question in QUESTIONS:
        ids = torch.tensor([lm.encode(question)])
        with torch.no_grad():
            [made] = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, **tasks
            )
        new = made[ids.shape[1] :].tolist()
        answers.append(new[: new.index(lm.end_ids[0])] if lm.end_ids[0] in new else new)
    return answers


def our_answers(lm: FrozenLM, prompt: Path | peft.PeftModel) -> list[list[int]]:
    soft_prompt = prompt_of(prompt) if isinstance(prompt, peft.PeftModel) else load_adapter(lm, prompt)
    made = greedy(lm, [Request(lm.encode(question), soft_prompt) for question in QUESTIONS], NEW)
    return [list(each.ids) for each in made]


# PEFT says of its own layout that it drops position ids.
@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_soft_prompt_of_each_kind_answers_as_pefts_generate(lm: FrozenLM, kind: str, tmp_path: Path) -> None:
    folder = saved(lm, KINDS[kind](), tmp_path)
    loaded = peft.PeftModel.from_pretrained(load_lm("zoo").model, folder).eval()
    expected = peft_answers(loaded, lm)
    assert our_answers(lm, folder) == expected
    assert our_answers(lm, loaded) == expected
    assert any(answer != without for answer, without in zip(expected, plain_answers(lm), strict=True))


def plain_answers(lm: FrozenLM) -> list[list[int]]:
    return [list(made.ids) for made in greedy(lm, [Request(lm.encode(question)) for question in QUESTIONS], NEW)]


@pytest.mark.parametrize("kind", ["p_tuning of an MLP", "cpt"])
def test_a_peft_model_gives_its_prompt_while_it_is_trained(lm: FrozenLM, kind: str, tmp_path: Path) -> None:
    model = trained(lm, KINDS[kind]())
    model.save_pretrained(tmp_path)
    assert prompt_of(model).sha256 == load_adapter(lm, tmp_path).sha256
    assert wrap_model(model, lm.tokenizer).model is lm.model


def test_a_pickled_adapter_is_read_without_running_its_code(lm: FrozenLM, tmp_path: Path) -> None:
    folder = saved(lm, p_tuning(), tmp_path / "safe")
    trained(lm, p_tuning()).save_pretrained(tmp_path / "pickled", safe_serialization=False)
    assert not (tmp_path / "pickled/adapter_model.safetensors").exists()
    assert load_adapter(lm, tmp_path / "pickled").sha256 == load_adapter(lm, folder).sha256

    class Mine:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"prompt_embeddings": Mine()}, tmp_path / "pickled/adapter_model.bin")
    with pytest.raises(UserError, match=r"adapter_model.bin holds no readable tensors \(Weights only load failed"):
        load_adapter(lm, tmp_path / "pickled")
    assert not (tmp_path / "ran").exists()
    torch.save([torch.zeros(2, 2)], tmp_path / "pickled/adapter_model.bin")
    with pytest.raises(UserError, match="holds a list, expected named tensors"):
        load_adapter(lm, tmp_path / "pickled")


def test_factors_of_several_tasks_are_refused_and_peft_makes_one_of_them_an_adapter(
    lm: FrozenLM, tmp_path: Path
) -> None:
    source = saved(lm, multitask(3), tmp_path / "three")
    with pytest.raises(UserError, match=r"adapter of 3 tasks, expected one of a single task; docs/adapters.md"):
        load_adapter(lm, source)
    with pytest.raises(UserError, match="adapter of 3 tasks, expected one"):
        prompt_of(trained(lm, multitask(3)))
    # What docs/adapters.md shows.
    config = peft.MultitaskPromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=LENGTH,
        num_ranks=2,
        prompt_tuning_init="EXACT_SOURCE_TASK",
        prompt_tuning_init_task=1,
        prompt_tuning_init_state_dict_path=str(source / "adapter_model.safetensors"),
    )
    peft.get_peft_model(lm.model, config).save_pretrained(tmp_path / "second")
    held = load_file(source / "adapter_model.safetensors")
    factors = held["prefix_task_cols"][1] @ held["prefix_task_rows"][1]
    assert torch.equal(load_adapter(lm, tmp_path / "second").vectors, held["prompt_embeddings"] * factors)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
            "PREFIX_TUNING adapter, which holds keys",
        ),
        (peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]), "LORA adapter, which changes the model's"),
        (
            peft.IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[]),
            "IA3 adapter, which changes the model's layers",
        ),
        (
            peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=3, adapter_layers=1),
            "ADAPTION_PROMPT adapter, which holds prompts with an attention of their own",
        ),
    ],
    ids=lambda value: str(value.peft_type.value) if isinstance(value, peft.PeftConfig) else "",
)
def test_what_is_no_soft_prompt_is_refused_by_name(config: peft.PeftConfig, message: str, tmp_path: Path) -> None:
    peft.get_peft_model(load_lm("zoo").model, config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_adapter(load_lm("zoo"), tmp_path)
    assert "\n" not in str(caught.value)


def test_several_adapters_in_one_folder_are_named(lm: FrozenLM, tmp_path: Path) -> None:
    model = trained(lm, prompt_tuning())
    model.add_adapter("second", prompt_tuning())
    model.save_pretrained(tmp_path / "both")
    assert load_adapter(lm, tmp_path / "both/second").vectors.shape == (LENGTH, lm.hidden_size)
    assert load_adapter(lm, tmp_path / "both") != load_adapter(lm, tmp_path / "both/second")
    with pytest.raises(UserError, match=r"has no adapter_config.json, but has adapters in both, both/second; give one"):
        load_adapter(lm, tmp_path)
    with pytest.raises(UserError, match="is a file; expected the folder"):
        load_adapter(lm, tmp_path / "both/adapter_model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"prefix_task_cols": torch.zeros(1, LENGTH - 1, 2)}, r"factors of the shapes \[1, 5, 2\] and \[1, 2, 128\]"),
        ({"prefix_task_rows": torch.zeros(1, 3, 128)}, r"shapes \[1, 6, 2\] and \[1, 3, 128\]"),
        ({"lm_head.weight": torch.zeros(2, 2)}, "holds 'lm_head.weight' too, expected the vectors of a soft prompt al"),
    ],
)
def test_tensors_that_contradict_each_other_are_refused(
    lm: FrozenLM, spoil: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    weights = saved(lm, multitask(), tmp_path) / "adapter_model.safetensors"
    save_file(load_file(weights) | spoil, weights)
    with pytest.raises(UserError, match=message):
        load_adapter(lm, tmp_path)


def test_the_tokens_of_cpt_are_as_many_as_its_vectors(lm: FrozenLM, tmp_path: Path) -> None:
    path = saved(lm, cpt(), tmp_path) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cpt_token_ids": IDS[:-1]}))
    with pytest.raises(UserError, match=r"holds 6 vectors .* states cpt_token_ids a list of 5"):
        load_adapter(lm, tmp_path)


@pytest.fixture
def hub(lm: FrozenLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with the repository ada/prompts, whose adapters are in two folders."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    cached = tmp_path / "hub/models--ada--prompts"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("1" * 40)
    for name, config in (("one", prompt_tuning()), ("two", p_tuning())):
        saved(lm, config, cached / "snapshots" / ("1" * 40) / name)
    assert str(tmp_path) not in HF_HUB_CACHE
    return cached / "snapshots" / ("1" * 40)


def test_an_adapter_of_the_hub_is_named_by_repository_and_folder(lm: FrozenLM, hub: Path) -> None:
    prompt = load_adapter(lm, Path("ada/prompts/two"))
    assert prompt.sha256 == load_adapter(lm, hub / "two").sha256
    assert prompt.directory == hub / "two"
    for name, message in (
        ("ada/prompts", r"has no adapter_config.json, but has adapters in one, two; give one of these"),
        ("ada/prompts/three", "repository ada/prompts has no folder three"),
        (
            "ada/missing",
            r"is not in the cache .*HF_HUB_OFFLINE is set.* give the local folder of an adapter",
        ),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load_adapter(lm, Path(name))
        assert "\n" not in str(caught.value)
