"""``FrozenLM``: a causal language model that nobody trains, and the one place that knows transformers' models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import as_file, files
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Cache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dpc.errors import UserError

EMBEDDED = "zoo"


@dataclass(frozen=True, slots=True)
class FrozenLM:
    """A frozen model with its tokenizer. ``name`` is what the user typed; ``revision`` identifies the weights."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str

    @property
    def hidden_size(self) -> int:
        """Length of one embedding vector."""
        return self._embedding_shape[1]

    @property
    def vocab_size(self) -> int:
        """Rows of the input embedding matrix."""
        return self._embedding_shape[0]

    @property
    def _embedding_shape(self) -> tuple[int, int]:
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight.shape[0], weight.shape[1]

    @property
    def layers(self) -> int:
        """Number of transformer blocks."""
        return int(self.model.config.num_hidden_layers)

    @property
    def context(self) -> int:
        """Longest sequence in tokens, soft prompt included."""
        return int(getattr(self.model.config, "max_position_embeddings", self.tokenizer.model_max_length))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.model.dtype

    @property
    def gradient_scale(self) -> float:
        """What a loss is multiplied by on the way back, and its gradient divided by where it is used.

        Of a model that is sure of its tokens, gradients times attention are smaller than a float's normal numbers, and
        a CPU is many times slower with those. A power of two changes no digit. Half precision has no room for it.
        """
        return 1.0 if self.dtype == torch.float16 else 2.0**48

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a generation."""
        configured = self.model.generation_config.eos_token_id if self.model.generation_config else None
        ids = configured if configured is not None else self.tokenizer.eos_token_id
        if ids is None:
            return ()
        return tuple(ids) if isinstance(ids, list | tuple) else (int(ids),)

    def encode(self, text: str) -> list[int]:
        """Token ids of a question, with the special tokens that the model expects at the start of a text."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        # Some tokenizers close every text with the end token: a question is not over.
        return ids[:-1] if ids and ids[-1] in self.end_ids else ids

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of a text that continues a question: no special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of ids; special tokens are left out unless ``special``."""
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        )

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text that each token adds to those before it, special tokens included.

        A character that several tokens make stands with the last of them.
        """
        texts, before, read = [], 0, 0
        for end in range(1, len(ids) + 1):
            known, text = (self.decode(ids[before:stop], special=True) for stop in (read, end))
            whole = not text.endswith("\ufffd") or end == len(ids)
            texts.append(text[len(known) :] if whole else "")
            if whole:
                before, read = read, end
        return texts

    def embed(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d"]:
        """Input embeddings of ``ids`` as the model itself computes them."""
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def forward(
        self,
        *,
        attention_mask: Int[Tensor, "batch total"],
        position_ids: Int[Tensor, "batch time"],
        cache: Cache,
        inputs_embeds: Float[Tensor, "batch time d"] | None = None,
        input_ids: Int[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch vocab"]:
        """Logits of the last position; extends ``cache``."""
        output = self.model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def last_logits(
        self,
        inputs_embeds: Float[Tensor, "batch time d"],
        count: int,
        keywords: Mapping[str, Any] = MappingProxyType({"use_cache": False}),
    ) -> Float[Tensor, "batch {count} vocab"]:
        """Teacher-forced logits at the last ``count`` positions, in float32 or better; padding stands on the right.

        Logits of whole sequences can outweigh the activations, and nearly every architecture can leave some out.
        keywords: what else the model is told, such as the cache that the positions come after.
        """
        kept = {}
        if "logits_to_keep" in signature(self.model.forward).parameters:
            # As a number it would mean all of them where it is 0; an index costs more on the way back.
            kept["logits_to_keep"] = count or torch.empty(0, dtype=torch.long, device=self.device)
        logits = self.model(inputs_embeds=inputs_embeds, **kept, **keywords).logits
        precise: Tensor = logits[:, logits.shape[1] - count :].to(torch.promote_types(logits.dtype, torch.float32))
        return precise


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Identify weights by shape and leading values of every parameter, whatever type they were loaded in."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(json.dumps([name, list(parameter.shape)]).encode())
        sample = parameter.detach().flatten()[:64].to("cpu", torch.bfloat16)
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def freeze(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> FrozenLM:
    """Wrap a loaded model: evaluation mode, no parameter trainable. Raises ``UserError`` for no end token."""
    model.eval().requires_grad_(False)
    return _with_end(FrozenLM(model, tokenizer, name, weights_fingerprint(model)))


def _with_end(lm: FrozenLM) -> FrozenLM:
    if not lm.end_ids:
        raise UserError(
            f"{lm.name}: neither model nor tokenizer names an end token; set eos_token in its tokenizer config"
        )
    return lm


def device_of(name: str) -> torch.device:
    """The device that ``name`` or ``auto`` stands for. Raises ``UserError`` where torch can't compute on it here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except torch.OutOfMemoryError:
        raise
    # A build of torch without the device says so by AssertionError or ImportError, a wrong name by RuntimeError.
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0][:120]
        raise UserError(
            f"--device {name}: can't be used here ({reason}); expected auto, cpu, cuda or cuda:N"
        ) from error
    return device


def load_lm(name: str, *, dtype: str = "auto", device: str = "auto", revision: str | None = None) -> FrozenLM:
    """Load a causal language model by hub id or local path; ``zoo`` is the model that ships in the package.

    dtype: a torch type's name, or ``auto`` (the checkpoint's own on a GPU, float32 on a CPU).
    device: as torch names it, or ``auto``. revision: branch, tag or commit on the hub; its main branch if None.
    Raises ``UserError`` where there is no such model, type or device.
    """
    place = device_of(device)
    kind = _kind(dtype, place)
    with _folder(name) as path, _loading(name):
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(path, revision=revision, dtype=kind, device_map={"": place})
    return freeze(model, tokenizer, name)


def load_outline(name: str, *, dtype: str = "auto", device: str = "auto", revision: str | None = None) -> FrozenLM:
    """What ``load_lm`` loads, without its weights: shapes, types, tokenizer and context are real, numbers are not.

    It encodes texts and says what fits; its ``revision`` is empty, and its parameters are on torch's meta device.
    Arguments and errors are those of ``load_lm``.
    """
    kind = _kind(dtype, device_of(device))
    with _folder(name) as path, _loading(name):
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        config = AutoConfig.from_pretrained(path, revision=revision)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=config.dtype if kind == "auto" else kind)
        with suppress(OSError):  # Optional: from_config has made one of the configuration.
            model.generation_config = GenerationConfig.from_pretrained(path, revision=revision or "main")
    return _with_end(FrozenLM(model.eval().requires_grad_(False), tokenizer, name, revision=""))


def _kind(dtype: str, place: torch.device) -> torch.dtype | str:
    if dtype == "auto":
        return "auto" if place.type == "cuda" else torch.float32
    return _dtype(dtype)


def _dtype(name: str) -> torch.dtype:
    known = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise UserError(f"--dtype {name}: expected one of auto, {', '.join(known)}")
    return known[name]


# What transformers raises for a model that is not there, not whole, or not one.
_LOADING_ERRORS = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError),
    SafetensorError,
)


@contextmanager
def _folder(name: str) -> Iterator[str]:
    """Where transformers finds the model: a folder, or a hub id."""
    if name == EMBEDDED:
        with as_file(files("dpc.zoo") / "model") as path:
            yield str(path)
        return
    if Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise UserError(f"--model {name}: no config.json there; expected a folder in Hugging Face format, or a hub id")
    yield name


@contextmanager
def _loading(name: str) -> Iterator[None]:
    try:
        yield
    except _LOADING_ERRORS as error:
        if "out of memory" in str(error):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"--model {name}: can't be loaded ({reason[:160]}); expected zoo, a local folder, or a Hugging Face hub id"
        ) from error
