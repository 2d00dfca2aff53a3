"""GGUF files: what is read before their weights, and files that transformers would load into another model.

transformers unpacks the quantized weights of a GGUF file and rebuilds configuration and tokenizer from its metadata. It
drops metadata and tensors that it does not know without an error. So each key and each tensor of a file is accounted
for here, and a file that holds more than is read is refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase, modeling_gguf_pytorch_utils
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.integrations.gguf.reader import _mapped, _read_metadata, _read_tensor_table
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.utils.hub import cached_file

from dpc.errors import UserError

SUFFIX = ".gguf"
# Architectures of which a test compares the loaded weights with those that were written.
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "lfm2")
_HUB_FILE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+):(?P<file>.+\.gguf)", re.IGNORECASE)
_SPLIT_FILE = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_DAMAGED = (struct.error, ValueError, KeyError, IndexError, OverflowError, MemoryError, TypeError)
# Metadata that transformers does not read: a wrong value would not fit the shapes of the tensors, or has no effect.
_SEEN_IN_SHAPES = {"vocab_size", "attention.key_length", "attention.value_length", "shortconv.l_cache"}
# Metadata that transformers does not read: attributes of the configuration that must have the same value.
_SAME_AS_CONFIG = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention.sliding_window": "sliding_window",
}
_ROPE_FACTORS = "rope_freqs.weight"
# Pre-tokenizers of byte-level vocabularies: those that split off each digit, and those that are GPT-2's.
_DIGITS, _GPT2 = {"smollm", "starcoder", "refact", "command-r"}, {"gpt-2", "olmo", "mpt", "jais", "phi-2"}
# Vocabularies made with tiktoken: a word that is a token is not split, and a start token comes first.
_TIKTOKEN = {"llama3", "llama-v3", "llama-bpe", "tekken"}


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What stands before the weights of a GGUF file: metadata, and each tensor's shape (as in torch), type and offset.

    Arrays of texts are left out of ``metadata``; the number of their elements stands in their place.
    """

    name: str
    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, tuple[tuple[int, ...], int, int]]
    data_start: int

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        return str(self.metadata["general.architecture"])

    @property
    def own_dtype(self) -> torch.dtype:
        """The 16-bit type that the weights are stored in, float32 where they are quantized."""
        stored = {kind for _, kind, _ in self.tensors.values()}
        if stored <= {0, 1}:
            return torch.float16 if 1 in stored else torch.float32
        return torch.bfloat16 if stored <= {0, 30} else torch.float32

    def raw(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The stored bytes of each tensor, on the CPU, one tensor at a time; names state shape and GGML type."""
        for name, (shape, kind, _) in self.tensors.items():
            yield f"{name} {list(shape)} type {kind}", self.bytes_of(name)

    def bytes_of(self, name: str) -> torch.Tensor:
        """The stored bytes of a tensor, copied."""
        shape, kind, offset = self.tensors[name]
        start = self.data_start + offset
        return torch.from_numpy(_mapped(str(self.path))[start : start + _bytes(shape, kind)].copy())


def gguf_path(name: str, revision: str | None) -> Path | None:
    """The local GGUF file that ``name`` means, FILE.gguf or ORG/REPO:FILE.gguf (downloaded); None for another model.

    Raises ``UserError`` if the file or the ``gguf`` package is missing, or if the file is a part of a split one.
    """
    hub = None if Path(name).exists() else _HUB_FILE.fullmatch(name)
    if hub is None and not name.lower().endswith(SUFFIX):
        return None
    if find_spec("gguf") is None:
        raise UserError(f"--model {name}: a GGUF file needs the package gguf, which is not installed: pip install gguf")
    if _SPLIT_FILE.search(name):
        raise UserError(
            f"--model {name}: is a part of a split GGUF file, expected a whole one; join the parts with "
            "llama-gguf-split --merge"
        )
    if hub is not None:
        return Path(str(cached_file(hub["repo"], hub["file"], revision=revision)))
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"--model {name}: no such file; expected FILE.gguf, or ORG/REPO:FILE.gguf on the hub")
    return path.absolute()


def refuse_folder_of_gguf(name: str) -> None:
    """Raise ``UserError`` if ``name`` is a folder that holds GGUF files instead of a checkpoint."""
    found = sorted(path.name for path in Path(name).glob(f"*{SUFFIX}"))
    if found:
        listed = ", ".join(found[:4]) + (", ..." if len(found) > 4 else "")
        raise UserError(
            f"--model {name}: is a folder with {len(found)} GGUF files ({listed}), expected one of them: "
            f"--model {Path(name) / found[0]}"
        )


def read_gguf(name: str, path: Path) -> GgufFile:
    """Metadata and table of tensors. Raises ``UserError`` if it is damaged, cut off, or of another architecture."""
    from gguf import GGML_QUANT_SIZES

    try:
        data = _mapped(str(path))
        metadata, count, position = _read_metadata(data, str(path))
        table, position = _read_tensor_table(data, count, position)
        aligned = int(metadata.get("general.alignment", 32))
        start = -(-position // aligned) * aligned
        tensors = {tensor: (shape, kind, offset) for tensor, shape, kind, offset in table}
    except _DAMAGED as error:
        reason = str(error).strip().partition("\n")[0].replace(str(path), "it")[:120]
        raise UserError(
            f"--model {name}: is not a whole GGUF file ({reason}); expected version 2 or 3: download it again"
        ) from error
    file = GgufFile(name, path, metadata, tensors, start)
    unknown = sorted({kind for _, kind, _ in tensors.values()} - {int(kind) for kind in GGML_QUANT_SIZES})
    if unknown:
        raise UserError(f"--model {name}: has tensors of GGML type {unknown[0]}, which the package gguf can't unpack")
    needed = max((start + offset + _bytes(shape, kind) for shape, kind, offset in tensors.values()), default=0)
    if needed > data.size or not tensors:
        raise UserError(
            f"--model {name}: is cut off: {data.size:,} bytes instead of at least {needed:,}; download it again"
        )
    if file.architecture not in ARCHITECTURES:
        raise UserError(
            f"--model {name}: is a GGUF file of the architecture {file.architecture}, expected one of "
            f"{', '.join(ARCHITECTURES)}; load the original checkpoint instead"
        )
    return file


def _bytes(shape: tuple[int, ...], kind: int) -> int:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    values, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    return prod(shape) // values * size


def complete_config(file: GgufFile, config: PreTrainedConfig) -> None:
    """Set in ``config`` what the file says and transformers does not read; refuse a file that says more.

    Set are the rotary frequencies of Llama 3, which a GGUF file stores as a tensor. Raises ``UserError`` for a key or a
    tensor that is not read: the model would not be the one in the file.
    """
    if _ROPE_FACTORS in file.tensors:
        _set_llama3_rope(file, config)
    if file.architecture.startswith("gemma") and config.head_dim != 256:
        raise _unread(file, f"a Gemma model with heads of {config.head_dim}, whose attention scale it does not state")
    mapping: Any = GGUF_CONFIG_MAPPING[file.architecture]
    read = {*mapping, *_SEEN_IN_SHAPES}
    for key, value in file.metadata.items():
        prefix, _, rest = key.partition(".")
        if prefix != file.architecture or rest in read or (rest == "rope.scaling.type" and value == "none"):
            continue
        if rest in _SAME_AS_CONFIG and getattr(config, _SAME_AS_CONFIG[rest], None) == value:
            continue
        raise _unread(file, f"the key {key} = {str(value)[:40]}")
    if file.architecture not in GGUF_CONFIG_ARCHS:
        _refuse_unread_tensors(file, config)


def _refuse_unread_tensors(file: GgufFile, config: PreTrainedConfig) -> None:
    """For architectures that transformers loads tensor by tensor; for the others it reports unexpected tensors."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    processor: Any = TENSOR_PROCESSORS.get(file.architecture, TensorProcessor)
    known = get_gguf_hf_weights_map(model, processor(config=config.to_dict()))
    unread = sorted(name for name in file.tensors if name not in known and name != _ROPE_FACTORS)
    if unread:
        raise _unread(file, f"{len(unread)} tensors ({', '.join(unread[:3])})")


def _set_llama3_rope(file: GgufFile, config: PreTrainedConfig) -> None:
    """Find the parameters of Llama 3's rotary scaling that give the stored factors."""
    stored = file.bytes_of(_ROPE_FACTORS).view(torch.float32)
    base = dict(config.rope_parameters)
    plain = base["rope_theta"] ** -(torch.arange(0, 2 * len(stored), 2).double() / (2 * len(stored)))
    # llama.cpp writes factors only for this kind of scaling, and Llama 3.1 to 3.3 differ in the first parameter alone.
    config.rope_parameters = base | {
        "rope_type": "llama3",
        "factor": float(stored.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    if file.architecture != "llama" or not torch.allclose(plain / scaled.double(), stored.double(), rtol=1e-4):
        raise _unread(file, f"rotary factors ({_ROPE_FACTORS}) other than those of Llama 3.1 to 3.3")


def complete_tokenizer(file: GgufFile, tokenizer: PreTrainedTokenizerBase) -> None:
    """Split digits as the vocabulary was trained to, where transformers does not; refuse an unknown pre-tokenizer."""
    if file.metadata.get("tokenizer.ggml.model") != "gpt2":
        return
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    kind = str(file.metadata.get("tokenizer.ggml.pre", "missing"))
    if kind in _DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    elif kind in _TIKTOKEN:
        backend.model.ignore_merges = True
        if "tokenizer.ggml.add_bos_token" not in file.metadata:
            tokenizer.add_bos_token = True
    elif kind not in _GPT2 and kind not in GGUF_PRE_TOKENIZER_SPLITS:
        raise _unread(file, f"a pre-tokenizer ({kind}) that is not known: how it splits a text does not stand there")


@contextmanager
def bar_on_terminals() -> Iterator[None]:
    """Show transformers' bar for the weights that are unpacked only where the output is a terminal."""
    module: Any = modeling_gguf_pytorch_utils
    shown = module.tqdm
    module.tqdm = partial(shown, disable=None)
    try:
        yield
    finally:
        module.tqdm = shown


def _unread(file: GgufFile, what: str) -> UserError:
    return UserError(
        f"--model {file.name}: the GGUF file has {what}, which would be lost on loading; load the original checkpoint "
        "instead"
    )
