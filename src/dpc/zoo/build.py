"""Train the embedded model from scratch: tokenizer, curriculum, optimizer, checkpoints. ``dpc zoo train`` runs it."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dpc.zoo.corpus import END, Document, training_documents
from dpc.zoo.muon import Muon

PAD = "<pad>"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines the weights, bit for bit on one machine with one number of threads."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    intermediate: int = 352
    context: int = 2048
    vocabulary: int = 1024
    total_tokens: int = 15_000_000
    batch_tokens: int = 2400
    learning_rate: float = 3e-3
    matrix_learning_rate: float = 0.02
    warmup_steps: int = 100
    question_weight: float = 0.2
    seed: int = 0
    threads: int = 1


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the corpus: lossless on any text, and every digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    pattern = Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    texts = [d.question + d.answer for i in range(20) for d in training_documents(recipe.seed, i, 100, 1.0)]
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        min_frequency=20,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=recipe.context,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of the recipe's shape."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02,
    )
    return LlamaForCausalLM(config)


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def make_batch(documents: list[Document], tokenizer: PreTrainedTokenizerFast, question_weight: float) -> Batch:
    """Right-padded ``ids``, ``labels`` and loss ``weights``; causal attention needs no padding mask."""
    rows: list[tuple[list[int], list[float]]] = []
    for document in documents:
        ids: list[int] = []
        weights: list[float] = []
        for text, is_answer in ((document.question, False), (document.answer, True)):
            piece = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += piece
            weights += [1.0 if is_answer else question_weight] * len(piece)
        rows.append((ids, weights))
    longest = max(len(ids) for ids, _ in rows)
    pad = tokenizer.pad_token_id
    ids_tensor = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows])
    weight_tensor = torch.tensor([weights + [0.0] * (longest - len(weights)) for _, weights in rows])
    return ids_tensor[:, :-1], ids_tensor[:, 1:], weight_tensor[:, 1:]


def batches(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, pool: int, progress: float) -> list[Batch]:
    """The batches of one pool: 512 texts, sorted by length so that little is padding, in random order."""
    documents = training_documents(recipe.seed, pool, 512, progress)
    documents.sort(key=lambda d: len(d.question) + len(d.answer))
    made: list[Batch] = []
    group: list[Document] = []
    longest = 0
    for document in documents:
        # About three characters a token: close enough to fill batches evenly.
        length = (len(document.question) + len(document.answer)) // 3
        if group and (len(group) + 1) * max(longest, length) > recipe.batch_tokens:
            made.append(make_batch(group, tokenizer, recipe.question_weight))
            group, longest = [], 0
        group.append(document)
        longest = max(longest, length)
    made.append(make_batch(group, tokenizer, recipe.question_weight))
    random.Random(f"order:{recipe.seed}:{pool}").shuffle(made)
    return made


def make_optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = Muon(matrices, lr=recipe.matrix_learning_rate, weight_decay=0.01, momentum=0.95)
    adamw = torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    return [muon, adamw]


def rate(recipe: Recipe, step: int, progress: float) -> float:
    """Learning-rate factor: linear warm-up, then linear to zero at the end (arXiv:2502.15938)."""
    return min((step + 1) / recipe.warmup_steps, 1.0) * max(0.0, 1.0 - progress)
