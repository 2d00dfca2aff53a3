"""Naive DPC: Dynamic Prompt Corruption (arXiv 2503.13208) written with PEFT and transformers alone.

``dpc bench`` measures the package against it, and tests compare the package's answers with it. It imports nothing of
dpc.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel, PromptTuningConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments

Ids = Sequence[int]
SHORTEST_RATIONALE = 4
UNLABELLED = -100


@dataclass(frozen=True, slots=True)
class Answer:
    """The answers to one question, as token ids without the end token.

    ratio: R of Eq 11; key_token: the virtual token with the largest S_acc. Both are None where the first answer is too
    short to be judged. second: None where the trigger did not fire.
    """

    first: tuple[int, ...]
    ratio: float | None
    key_token: int | None
    second: tuple[int, ...] | None


def read_prompt(model: PreTrainedModel, directory: Path) -> Tensor:
    """The soft prompt ``[prompt, d]`` of a PEFT adapter."""
    return PeftModel.from_pretrained(model, str(directory)).get_prompt(batch_size=1)[0].detach()


def end_tokens(model: PreTrainedModel) -> tuple[int, ...]:
    """Tokens that end a generation."""
    ends = model.generation_config.eos_token_id
    return tuple(ends) if isinstance(ends, list | tuple) else () if ends is None else (ends,)


def batches(questions: Sequence[Ids], size: int, by_length: bool) -> Iterator[list[int]]:
    """Indices of ``questions`` in batches, in the given order or sorted by length."""
    order = list(range(len(questions)))
    if by_length:
        order.sort(key=lambda index: len(questions[index]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    questions: Sequence[Ids],
    prompts: Sequence[Tensor],
    max_new_tokens: int,
    batch_size: int,
    by_length: bool = True,
) -> list[tuple[int, ...]]:
    """Greedy answers to questions, each with its own soft prompt ``[prompt, d]``.

    Batches are laid out as ``pad | prompt | question``. The batched ``generate`` of PEFT puts the padding between
    prompt and question and drops the position ids, which changes the logits.
    """
    embed, ends = model.get_input_embeddings(), end_tokens(model)
    answers: list[tuple[int, ...]] = [()] * len(questions)
    for batch in batches(questions, batch_size, by_length):
        rows = [torch.cat([prompts[i].to(model.dtype), embed(_tensor(model, questions[i]))]) for i in batch]
        mask = pad_sequence([row.new_ones(len(row)) for row in rows], batch_first=True, padding_side="left")
        written = model.generate(
            inputs_embeds=pad_sequence(rows, batch_first=True, padding_side="left"),
            attention_mask=mask.long(),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=ends[0] if ends else None,
        )
        for index, ids in zip(batch, written.tolist(), strict=True):
            stop = next((at for at, token in enumerate(ids) if token in ends), len(ids))
            answers[index] = tuple(ids[:stop])
    return answers


def saliency(
    model: PreTrainedModel, prompt: Tensor, question: Ids, rationale: Ids, layers: Sequence[int]
) -> dict[int, Tensor]:
    """Saliency (Eq 1) of one instance: the whole matrix ``[row, column]`` for each of ``layers``."""
    ids = _tensor(model, [*question, *rationale])
    embedded = torch.cat([prompt.to(model.dtype), model.get_input_embeddings()(ids)])[None].detach().requires_grad_()
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        output = model(inputs_embeds=embedded, output_attentions=True, use_cache=False)
    finally:
        model.set_attn_implementation(before)
    for layer in layers:
        output.attentions[layer].retain_grad()
    start = len(prompt) + len(question)
    cross_entropy(output.logits[0, start - 1 : -1].float(), _tensor(model, rationale)).backward()
    return {layer: _eq1(output.attentions[layer]) for layer in layers}


def _eq1(attention: Tensor) -> Tensor:
    return (attention.detach() * attention.grad).sum(dim=1).abs()[0]


def affected_share(influence: Tensor) -> float:
    """R of Eq 11, from the mean influence of the prompt on each rationale position (Eqs 12 and 13)."""
    half = len(influence) // 2
    late = influence[half:]
    return int((late > influence[:half].mean()).sum()) / len(late)


def corrupt(prompt: Tensor, key_token: int, gamma: float) -> Tensor:
    """The vector of the key token set to zero, and the smallest ``gamma`` percent of the values in all others."""
    pruned = int(prompt.shape[1] * gamma / 100)
    smallest = prompt.abs().argsort(dim=1, stable=True)[:, :pruned]
    corrupted = prompt.scatter(1, smallest, 0.0)
    corrupted[key_token] = 0.0
    return corrupted


def answer(
    model: PreTrainedModel,
    questions: Sequence[Ids],
    prompt: Tensor,
    *,
    shallow: Sequence[int],
    tau: float,
    gamma: float,
    max_new_tokens: int,
    batch_size: int,
    by_length: bool = True,
    row: Literal["at", "before"] = "at",
) -> list[Answer]:
    """The whole method: generate, compute saliency, corrupt where triggered, and generate again.

    row: the influence on rationale token i is read in the row at its position, or in the row before, which predicts it.
    """
    length, last = len(prompt), model.config.num_hidden_layers - 1
    first = generate(model, questions, [prompt] * len(questions), max_new_tokens, batch_size, by_length)
    ratios: list[float | None] = [None] * len(questions)
    keys: list[int | None] = [None] * len(questions)
    for index, (question, rationale) in enumerate(zip(questions, first, strict=True)):
        if len(rationale) < SHORTEST_RATIONALE:
            continue
        maps = saliency(model, prompt, question, rationale, sorted({*shallow, last}))
        start = length + len(question) - (row == "before")
        ratios[index] = affected_share(maps[last][start : start + len(rationale), :length].mean(dim=1))
        accumulated = torch.stack([maps[layer][length:, :length].mean(dim=0) for layer in shallow]).mean(dim=0)
        keys[index] = int(accumulated.argmax())
    triggered = {index: key for index, key in enumerate(keys) if key is not None and (ratios[index] or 0.0) > tau}
    again = generate(
        model,
        [questions[index] for index in triggered],
        [corrupt(prompt, key, gamma) for key in triggered.values()],
        max_new_tokens,
        batch_size,
        by_length,
    )
    second = dict(zip(triggered, again, strict=True))
    return [Answer(first[i], ratios[i], keys[i], second.get(i)) for i in range(len(questions))]


def tune(
    model: PreTrainedModel,
    start: Tensor,
    rows: Sequence[tuple[Ids, Ids]],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    warmup_steps: int,
    by_length: bool,
    seed: int,
) -> Tensor:
    """The prompt ``[prompt, d]`` after ``steps`` updates of PEFT's prompt tuning with ``transformers.Trainer``.

    start: the initial vectors. rows: ids of question and target, end token included. by_length: batches of rows of
    similar length, as the Trainer forms them. seed: determines the order of the rows.
    """
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=len(start))
    tuned = get_peft_model(model, config)
    vectors = tuned.prompt_encoder["default"].embedding.weight
    vectors.data.copy_(start)
    dataset = [
        {"input_ids": [*question, *target], "labels": [*[UNLABELLED] * len(question), *target]}
        for question, target in rows
    ]
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            output_dir=directory,
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
            lr_scheduler_type="cosine",
            weight_decay=0.0,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            train_sampling_strategy="group_by_length" if by_length else "random",
            seed=seed,
            use_cpu=model.device.type == "cpu",
            dataloader_pin_memory=model.device.type != "cpu",
            remove_unused_columns=False,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(model=tuned, args=arguments, train_dataset=dataset, data_collator=_collate)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.eval()
    return vectors.detach().clone()


def _collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    ids, labels = ([torch.tensor(row[name]) for row in rows] for name in ("input_ids", "labels"))
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=UNLABELLED),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
    }


def _tensor(model: PreTrainedModel, ids: Ids) -> Tensor:
    return torch.tensor(list(ids), dtype=torch.long, device=model.device)
