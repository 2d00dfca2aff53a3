"""A soft prompt as a value: its initialization, and its files, a PEFT adapter with its provenance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float, Float32, Int
from safetensors.torch import save
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dpc.errors import UserError
from dpc.files import write_atomically
from dpc.model.adapter_folder import CONFIG_FILE, WEIGHTS_FILE, read_adapter_json
from dpc.model.asking import template_sha256
from dpc.model.lm import FrozenLM, model_title
from dpc.model.peft_adapter import PeftAdapter
from dpc.prompt.base_model import README_FILE, adapter_readme, loadable_base
from dpc.prompt.virtual_tokens import WEIGHTS_KEY, virtual_tokens, virtual_tokens_of
from dpc.settings import Init
from dpc.types import Format

PROVENANCE_FILE = "dpc.json"
FORMAT_VERSION = 1

# Words, digits, spaces, accents, symbols and line ends: tokenizers with the same vocabulary may differ in these.
PROBE_TEXT = "Ada paid $1,234.50 for 7 books;\n\tshe'd  have 3/4 left. Déjà vu — 東京 🙂 #### 42\n"


@dataclass(frozen=True, slots=True, repr=False)
class SoftPrompt:
    """Learned vectors that come before a question, always float32, and the name of the model they were tuned for.

    sha256: of the vectors (``prompt_sha256``). directory: the adapter they were read from, or None. format: in which
    questions were put to the model in tuning; None where that is not recorded. Two prompts are equal if their hash and
    their model's name are.
    """

    vectors: Float32[Tensor, "prompt d"] = field(compare=False)
    base_model: str
    sha256: str
    directory: Path | None = field(default=None, compare=False)
    format: Format | None = field(default=None, compare=False)

    @classmethod
    def of(
        cls,
        vectors: Float[Tensor, "prompt d"],
        base_model: str,
        directory: Path | None = None,
        format: Format | None = None,
    ) -> SoftPrompt:
        """A prompt of a float32 copy of ``vectors``, on their device, with its hash."""
        copy = vectors.detach().to(torch.float32, copy=True).contiguous()
        return cls(copy, base_model, prompt_sha256(copy), directory, format)

    def __repr__(self) -> str:
        length, width = self.vectors.shape
        return f"SoftPrompt({length} virtual tokens x {width}, sha256 {self.sha256[:8]}…)"

    def _repr_html_(self) -> str:
        rows = {
            "virtual tokens": len(self.vectors),
            "values per token": self.vectors.shape[1],
            "model": self.base_model,
            "sha256": self.sha256,
            "directory": self.directory or "none",
        }
        cells = (f"<tr><th>{name}</th><td>{escape(str(value))}</td></tr>" for name, value in rows.items())
        return f"<table><caption>Soft prompt</caption>{''.join(cells)}</table>"


def prompt_sha256(vectors: Float32[Tensor, "prompt d"]) -> str:
    """SHA-256 of ``"<prompt>x<d>"``, a newline, and the values as little-endian float32, row by row."""
    digest = hashlib.sha256(f"{vectors.shape[0]}x{vectors.shape[1]}\n".encode())
    digest.update(vectors.detach().cpu().contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def init_prompt(lm: FrozenLM, length: int, init: Init, seed: int, text: str | None = None) -> SoftPrompt:
    """A prompt of ``length`` vectors to start tuning from, on the model's device. The same seed gives the same prompt.

    random: normal, with the standard deviation of the model's token embeddings. Vectors of unit variance (PEFT's
    choice) are about fifty times larger than the embeddings, and steps of 1e-3 hardly change them.
    sample-vocab: embeddings of tokens drawn from the vocabulary, without special tokens and unused rows.
    text: embeddings of ``text``, one training example with its start token, repeated or cut to ``length``
    (arXiv 2503.13208, appendix A.1).

    Raises ``UserError`` if length is below 1, if init is unknown, or if init ``text`` has no text.
    """
    if length < 1:
        raise UserError(f"prompt length {length}: expected at least 1 vector")
    if init not in get_args(Init):
        raise UserError(f"prompt init '{init}': expected one of {', '.join(get_args(Init))}")
    generator = torch.Generator().manual_seed(seed)
    if init == "random":
        vectors = torch.randn(length, lm.hidden_size, generator=generator) * _embedding_std(lm)
        return SoftPrompt.of(vectors.to(lm.device), lm.name)
    if init == "sample-vocab":
        rows = _real_tokens(lm)
        ids = rows[torch.randint(len(rows), (length,), generator=generator)]
    else:
        encoded = lm.encode_text(text) if text else []
        if not encoded:
            raise UserError("prompt init 'text': expected a text to start from; give one training example")
        ids = torch.tensor((encoded * -(-length // len(encoded)))[:length])
    return SoftPrompt.of(_embed(lm, ids), lm.name)


def _real_tokens(lm: FrozenLM) -> Int[Tensor, " token"]:
    special = set(lm.tokenizer.all_special_ids) | set(lm.end_ids)
    used = {int(row) for row in lm.tokenizer.get_vocab().values()}
    return torch.tensor(sorted(row for row in used - special if row < lm.vocab_size))


@torch.no_grad()
def _embed(lm: FrozenLM, ids: Int[Tensor, " token"]) -> Float[Tensor, "token d"]:
    return lm.embed(ids.to(lm.device))


def _embedding_std(lm: FrozenLM) -> float:
    # In chunks: a float32 copy of a large vocabulary takes gigabytes. Through the layer: Gemma scales its embeddings.
    tokens, total, squares = _real_tokens(lm), 0.0, 0.0
    for ids in torch.split(tokens, 4096):
        values = _embed(lm, ids).float()
        total += values.sum(dtype=torch.float64).item()
        squares += values.square().sum(dtype=torch.float64).item()
    count = len(tokens) * lm.hidden_size
    return float(max(squares / count - (total / count) ** 2, 0.0) ** 0.5)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the vocabulary, the special tokens, and the ids of one fixed text with special tokens.

    It describes what the tokenizer does. The bytes of its files change with the library's version.
    """
    behaviour = {
        "vocabulary": sorted((str(token), int(row)) for token, row in tokenizer.get_vocab().items()),
        "special": sorted(int(row) for row in tokenizer.all_special_ids),
        "probe": [int(row) for row in tokenizer(PROBE_TEXT)["input_ids"]],
    }
    return hashlib.sha256(json.dumps(behaviour, ensure_ascii=True).encode()).hexdigest()


def save_adapter(soft_prompt: SoftPrompt, lm: FrozenLM, directory: Path, provenance: Mapping[str, Any]) -> None:
    """Write the prompt as a PEFT prompt-tuning adapter, and its provenance as ``dpc.json`` in the same directory.

    ``peft.PeftModel.from_pretrained(base, directory)`` loads it, and ``AutoPeftModelForCausalLM`` with its model.
    ``dpc.json`` holds the JSON values ``provenance``, and what identifies model, tokenizer and prompt; the latter wins
    where names are equal. Every file is written atomically, the weights last, so ``load_adapter`` refuses what an
    interrupted write leaves.

    Raises ``UserError`` if the directory can't be written, or if the prompt does not fit the model.
    """
    length, width = soft_prompt.vectors.shape
    if width != lm.hidden_size:
        raise UserError(f"prompt has vectors of {width} values, but model '{lm.name}' expects {lm.hidden_size}")
    stamped = {
        **provenance,
        "format_version": FORMAT_VERSION,
        "base_model": lm.name,
        **({} if lm.adapter is None else {"adapter": lm.adapter.name}),
        "revision": lm.revision,
        "tokenizer_sha256": tokenizer_fingerprint(lm.tokenizer),
        "vocab_size": lm.vocab_size,
        "hidden_size": lm.hidden_size,
        "prompt_length": length,
        "prompt_sha256": soft_prompt.sha256,
        **_format_of(lm),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
    }
    tensors = {WEIGHTS_KEY: soft_prompt.vectors.detach().cpu().contiguous()}
    write_atomically(directory / PROVENANCE_FILE, _json_bytes(stamped))
    if not (directory / README_FILE).exists():
        write_atomically(directory / README_FILE, adapter_readme(lm, length).encode())
    write_atomically(directory / CONFIG_FILE, _json_bytes(_peft_config(lm, length)))
    write_atomically(directory / WEIGHTS_FILE, save(tensors, metadata={"format": "pt"}))


def _peft_config(lm: FrozenLM, length: int) -> dict[str, Any]:
    # Importing peft takes seconds, and only saving needs it.
    from peft import PromptTuningConfig, TaskType

    base, revision = loadable_base(lm)
    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=base,
        revision=revision,
        inference_mode=True,
        num_virtual_tokens=length,
        token_dim=lm.hidden_size,
        num_transformer_submodules=1,
        # A state space model states none. PEFT looks at it for prefix tuning alone.
        num_attention_heads=getattr(lm.config, "num_attention_heads", None),
        num_layers=lm.layers,
        # The vectors come from the file. With "TEXT", PEFT would load a tokenizer to initialize them.
        prompt_tuning_init="RANDOM",
    )
    return dict(config.to_dict())


def _format_of(lm: FrozenLM) -> dict[str, str]:
    """The format in which questions are put to ``lm``, and the chat template where it is used."""
    if lm.asking.format == "raw":
        return {"format": "raw"}
    return {"format": "chat", "chat_template_sha256": template_sha256(lm.tokenizer)}


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def load_adapter(lm: FrozenLM, directory: Path) -> SoftPrompt:
    """Read a PEFT prompt-tuning adapter for ``lm``: its vectors in float32, on the model's device.

    With ``dpc.json``, the model's weights, tokenizer and vocabulary must be those of tuning. Without it (an adapter
    that PEFT alone wrote), only the vectors' width must fit.

    Raises ``UserError`` if the directory or a file is missing or unreadable, if the adapter is not a soft prompt, or if
    it was tuned for another model.
    """
    adapter = PeftAdapter.find(directory, f"prompt '{directory}'")
    vectors = virtual_tokens(adapter)
    if vectors.shape[1] != lm.hidden_size:
        raise UserError(
            f"prompt '{directory}': its vectors have {vectors.shape[1]} values, but model '{lm.name}' expects "
            f"{lm.hidden_size}; load the model it was tuned on ({adapter.base_model})"
        )
    folder = adapter.folder
    base_model, format = adapter.base_model or lm.name, None
    if (folder / PROVENANCE_FILE).exists():
        provenance = read_adapter_json(folder, PROVENANCE_FILE, adapter.label)
        _check_provenance(lm, adapter, provenance, prompt_sha256(vectors))
        base_model, format = str(provenance["base_model"]), provenance.get("format", "raw")
    return SoftPrompt.of(vectors.to(lm.device), base_model, folder, format)


def prompt_of(peft_model: nn.Module) -> SoftPrompt:
    """The soft prompt of a PEFT model, on the model's device. ``wrap_model`` takes its base model.

    Raises ``UserError`` for another kind of model or adapter.
    """
    return SoftPrompt.of(*virtual_tokens_of(peft_model))


def _check_provenance(lm: FrozenLM, adapter: PeftAdapter, provenance: dict[str, Any], sha256: str) -> None:
    found_version = provenance.get("format_version")
    if found_version != FORMAT_VERSION:
        raise UserError(
            f"{adapter.label}: {PROVENANCE_FILE} has format version {found_version}, expected {FORMAT_VERSION}; "
            "use the dpc version that wrote it"
        )
    here: dict[str, tuple[str, Any]] = {
        "revision": ("weights", lm.revision),
        "tokenizer_sha256": ("tokenizer", tokenizer_fingerprint(lm.tokenizer)),
        "vocab_size": ("vocabulary size", lm.vocab_size),
    }
    if provenance.get("format") == "chat":
        sha256_now = template_sha256(lm.tokenizer) if lm.tokenizer.chat_template else "none"
        here["chat_template_sha256"] = ("chat template", sha256_now)
    missing = [key for key in (*here, "base_model", "prompt_sha256") if key not in provenance]
    if missing:
        raise UserError(f"{adapter.label}: {PROVENANCE_FILE} lacks {', '.join(missing)}; tune the prompt again")
    if provenance["prompt_sha256"] != sha256:
        raise UserError(
            f"{adapter.label}: {adapter.weights.name} is not the prompt that {PROVENANCE_FILE} describes; "
            f"delete {PROVENANCE_FILE} to load it as a plain PEFT adapter"
        )
    differing = [
        f"{label} {_short(provenance[key])} against {_short(value)}"
        for key, (label, value) in here.items()
        if provenance[key] != value
    ]
    if differing:
        base = model_title(provenance["base_model"], provenance.get("adapter"))
        raise UserError(
            f"{adapter.label}: tuned on model '{base}', which is not model '{lm.title}' ({'; '.join(differing)}); "
            "load the model it was tuned on or tune a prompt for this one"
        )


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) else str(value)
