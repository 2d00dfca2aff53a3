"""``FrozenLM``: a causal language model with frozen weights and its tokenizer, and how to load or wrap one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import as_file, files
from inspect import signature
from pathlib import Path
from pickle import UnpicklingError
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Cache,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dpc.errors import UserError
from dpc.model.checkpoint import needs_code, refuse_adapter, refuse_misfit, refuse_own_code, weight_files
from dpc.model.device import device_of, dtype_for
from dpc.model.fingerprint import FileStamp, checkpoint_fingerprint, weights_fingerprint

EMBEDDED = "zoo"


@dataclass(frozen=True, slots=True, repr=False)
class FrozenLM:
    """A frozen model with its tokenizer.

    name: what the user typed. revision: the fingerprint of the weights (``weights_fingerprint``).
    trust_remote_code: whether Python code that comes with the model was allowed to run. weight_files: stamps of the
    files that the weights were loaded from; empty for a model that was wrapped in memory.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str
    trust_remote_code: bool = False
    weight_files: tuple[FileStamp, ...] = ()

    def __repr__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"FrozenLM({self.name!r}, {_size(self.model)} parameters, {kind}, {self.device})"

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
        """Device of the weights."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return self.model.dtype

    @property
    def gradient_scale(self) -> float:
        """Factor that a loss is multiplied by before the backward pass; its gradient is divided by it afterwards.

        If a model is sure of its tokens, products of gradient and attention are subnormal floats, with which a CPU
        computes many times more slowly. A power of two changes no digit. float16 has no range for it.
        """
        return 1.0 if self.dtype == torch.float16 else 2.0**48

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids of the end tokens: decoding stops at any of them."""
        configured = self.model.generation_config.eos_token_id if self.model.generation_config else None
        ids = configured if configured is not None else self.tokenizer.eos_token_id
        if ids is None:
            return ()
        return tuple(ids) if isinstance(ids, list | tuple) else (int(ids),)

    def verify_unchanged(self) -> None:
        """Raise ``UserError`` if the weight files no longer hold what was loaded.

        Compares size and times of each file, and hashes the files again only if one of these differs. A model that was
        wrapped in memory has no files, so nothing is checked.
        """
        changed = [stamp for stamp in self.weight_files if not stamp.is_current()]
        if not changed:
            return
        try:
            same = checkpoint_fingerprint(self.model, [Path(stamp.path) for stamp in self.weight_files])[0]
        except _LOADING_ERRORS:
            same = None
        if same != self.revision:
            raise UserError(
                f"--model {self.name}: '{changed[0].path}' changed after the model was loaded, so results would be of "
                "two models; restore the file, or start a new run with the changed model"
            )

    def encode(self, text: str) -> list[int]:
        """Token ids of a question, with the special tokens that the model expects at the start of a text."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        # Some tokenizers append the end token to every text, but the answer is still to come.
        return ids[:-1] if ids and ids[-1] in self.end_ids else ids

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of a text that follows a question, without special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of token ids. Special tokens are left out unless ``special``."""
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        )

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text that each token adds to those before it, special tokens included.

        If several tokens form one character, it is the text of the last of them, and the others have none.
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
        """Input embeddings of ``ids``, computed by the model's own embedding layer."""
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
        """One decoder pass: logits at the last position. Appends keys and values to ``cache``."""
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
        """Teacher-forced logits at the last ``count`` positions, in float32 or float64. Padding must be on the right.

        Logits of whole sequences can take more memory than all activations, so only these positions are computed if
        the architecture allows it. keywords: further arguments of the model, such as a KV cache that comes first.
        """
        kept = {}
        if "logits_to_keep" in signature(self.model.forward).parameters:
            # The number 0 would mean all positions. An index for every count would make the backward pass slower.
            kept["logits_to_keep"] = count or torch.empty(0, dtype=torch.long, device=self.device)
        logits = self.model(inputs_embeds=inputs_embeds, **kept, **keywords).logits
        precise: Tensor = logits[:, logits.shape[1] - count :].to(torch.promote_types(logits.dtype, torch.float32))
        return precise


def wrap_model(model: nn.Module, tokenizer: PreTrainedTokenizerBase, name: str | None = None) -> FrozenLM:
    """Wrap a causal language model that is loaded already. It is used as it is, not copied.

    The model is set to evaluation mode, and no parameter stays trainable. Its weights are hashed in full.
    model: a transformers model, or a PEFT model for prompt tuning, of which the base model is taken (``prompt_of``
    takes its soft prompt). name: where it was loaded from, as transformers recorded it, if None.
    Raises ``UserError`` for another kind of model, or if neither model nor tokenizer has an end token.
    """
    base = _base_model(model)
    base.eval().requires_grad_(False)
    name = name or str(base.config.name_or_path) or type(base).__name__
    return _with_end(FrozenLM(base, tokenizer, name, weights_fingerprint(base)))


def _base_model(model: nn.Module) -> PreTrainedModel:
    # A PEFT model exists only if PEFT is imported, and importing it takes seconds.
    peft = sys.modules.get("peft")
    if peft is not None and isinstance(model, peft.PeftModel):
        kind = str(model.active_peft_config.peft_type.value)
        if kind != "PROMPT_TUNING":
            raise UserError(
                f"{type(model).__name__} with a {kind} adapter: expected PROMPT_TUNING, or a model without an adapter; "
                "merge the adapter into the model (merge_and_unload) and pass the result"
            )
        model = model.get_base_model()
    if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None:
        raise UserError(
            f"{type(model).__name__}: expected a causal language model of transformers; "
            "load it with AutoModelForCausalLM"
        )
    return model


def _size(model: PreTrainedModel) -> str:
    count = sum(parameter.numel() for parameter in model.parameters())
    if count < 10**5:
        return f"{count:,}"
    return f"{count / 1e9:.1f}B" if count >= 10**9 else f"{count / 1e6:.1f}M"


def _with_end(lm: FrozenLM) -> FrozenLM:
    if not lm.end_ids:
        raise UserError(
            f"{lm.name}: neither model nor tokenizer has an end token; set eos_token in its tokenizer_config.json"
        )
    return lm


def load_lm(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> FrozenLM:
    """Load a causal language model by hub id or local path; ``zoo`` is the model that the package contains.

    dtype: name of a torch type, or ``auto`` (on a GPU the checkpoint's own type, on a CPU float32).
    device: name of a torch device, or ``auto``. revision: branch, tag or commit on the hub, its main branch if None.
    trust_remote_code: run Python code that comes with the model. Without it, no code of the model runs.

    ``revision`` of the result is the ``checkpoint_fingerprint`` of the weights.
    Raises ``UserError`` if there is no such model, type or device, if the model needs code of its own that may not run,
    or if the checkpoint does not hold exactly the weights that its config.json describes.
    """
    place = device_of(device)
    kind = dtype_for(dtype, place)
    with _folder(name) as path, _loading(name):
        config, tokenizer = _config_and_tokenizer(name, path, revision, trust_remote_code)
        before = _stamps(path, revision, config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            dtype=kind,
            device_map={"": place},
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            # Otherwise transformers raises an error that does not name them.
            ignore_mismatched_sizes=True,
        )
        model, loading_info = loaded
        refuse_misfit(name, model, loading_info)
        files = weight_files(path, revision, config)
        fingerprint, stamps = checkpoint_fingerprint(model, files) if files else (weights_fingerprint(model), ())
        if Path(path).is_dir() and before != stamps:
            raise UserError(f"--model {name}: its weights changed while they were loaded; load it again")
    model.eval().requires_grad_(False)
    return _with_end(FrozenLM(model, tokenizer, name, fingerprint, trust_remote_code, stamps))


def load_outline(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> FrozenLM:
    """Load all but the weights: shapes, types, tokenizer and context are those of ``load_lm``.

    The result encodes texts and tells sizes, but computes nothing: its parameters are on torch's meta device, and its
    ``revision`` is empty. Arguments and errors are those of ``load_lm``, except errors about weights.
    """
    kind = dtype_for(dtype, device_of(device))
    with _folder(name) as path, _loading(name):
        config, tokenizer = _config_and_tokenizer(name, path, revision, trust_remote_code)
        own = config.dtype if kind == "auto" else kind
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=own, trust_remote_code=trust_remote_code)
        with suppress(OSError):  # Optional: from_config derives one from the configuration.
            model.generation_config = GenerationConfig.from_pretrained(path, revision=revision or "main")
    model.eval().requires_grad_(False)
    return _with_end(FrozenLM(model, tokenizer, name, "", trust_remote_code))


def _config_and_tokenizer(
    name: str, path: str, revision: str | None, trust: bool
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    refuse_adapter(name, path, revision)
    # Explicitly False: by default transformers asks on standard input whether to run the code.
    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust)
    if not trust:
        refuse_own_code(name, path, revision, config)
    return config, AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust)


def _stamps(path: str, revision: str | None, config: PreTrainedConfig) -> tuple[FileStamp, ...]:
    return tuple(map(FileStamp.of, weight_files(path, revision, config)))


# Errors that transformers raises for a model that is missing, damaged, or of another kind.
_LOADING_ERRORS = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError),
    *(SafetensorError, UnpicklingError, EOFError),
)


@contextmanager
def _folder(name: str) -> Iterator[str]:
    """The folder or hub id that transformers loads ``name`` from."""
    if name == EMBEDDED:
        with as_file(files("dpc.zoo") / "model") as path:
            yield str(path)
        return
    if Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise UserError(f"--model {name}: has no config.json; expected a folder in Hugging Face format, or a hub id")
    yield name


@contextmanager
def _loading(name: str) -> Iterator[None]:
    try:
        yield
    except _LOADING_ERRORS as error:
        if "out of memory" in str(error):
            raise
        if "trust_remote_code" in str(error):
            raise needs_code(name, "auto_map in its configuration") from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"--model {name}: can't be loaded ({reason[:160]}); expected zoo, a local folder, or a Hugging Face hub id"
        ) from error
