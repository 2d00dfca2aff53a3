"""``FrozenLM``: a causal language model with frozen weights and its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from dpc.errors import UserError
from dpc.model.asking import RAW, SHOT_SEPARATOR, Asking, chat_token_ids
from dpc.model.checkpoint import LOADING_ERRORS
from dpc.model.context import Context, context_of
from dpc.model.fingerprint import FileStamp, checkpoint_fingerprint
from dpc.model.layer_adapter import LayerAdapter


def model_title(name: str, adapter: str | None) -> str:
    """The name of a model with the name of its adapter."""
    return name if adapter is None else f"{name} with adapter {adapter}"


@dataclass(frozen=True, slots=True, repr=False)
class FrozenLM:
    """A frozen model with its tokenizer.

    name: what the user typed. revision: the fingerprint of the weights (``weights_fingerprint``).
    trust_remote_code: whether Python code that comes with the model was allowed to run. weight_files: stamps of the
    files that the weights were loaded from; empty for a model that was wrapped in memory. quantized: 4bit where the
    weights were quantized while they were loaded; ``revision`` is that of the weights before. asking: how questions are
    put to the model; ``prompt/asked.py`` chooses it. adapter: what changes
    the model's layers; ``revision`` is of the weights and the adapter.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str
    trust_remote_code: bool = False
    weight_files: tuple[FileStamp, ...] = ()
    quantized: str | None = None
    asking: Asking = RAW
    adapter: LayerAdapter | None = None

    def __repr__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"FrozenLM({self.title!r}, {_size(self.model)} parameters, {kind}, {self.device})"

    @property
    def title(self) -> str:
        """The name, and that of the adapter."""
        return model_title(self.name, self.adapter.name if self.adapter else None)

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
    def config(self) -> PreTrainedConfig:
        """The configuration of the language model; of a multimodal model, that of its text part."""
        return self.model.config.get_text_config()

    @property
    def layers(self) -> int:
        """Number of transformer blocks."""
        return int(self.config.num_hidden_layers)

    @property
    def context(self) -> int:
        """Longest sequence in tokens, soft prompt included."""
        return self.context_limit.tokens

    @property
    def context_limit(self) -> Context:
        """The context with the reason for it, for messages."""
        return context_of(self.config, int(self.tokenizer.model_max_length))

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
        """Ids of the end tokens: decoding stops at any of them. In the chat format the end of a turn is one."""
        own, turn_end = self.own_end_ids, self.asking.turn_end
        return own if turn_end is None or turn_end in own else (*own, turn_end)

    @property
    def own_end_ids(self) -> tuple[int, ...]:
        """Ids of the end tokens that generation configuration or tokenizer name."""
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
        if self.adapter is not None and not self.adapter.is_current():
            raise UserError(
                f"--adapter {self.adapter.name}: its weights changed after they were loaded, so results would be of "
                "two models; restore the file, or start a new run with the changed adapter"
            )
        changed = [stamp for stamp in self.weight_files if not stamp.is_current()]
        if not changed:
            return
        try:
            same = checkpoint_fingerprint(self.model, [Path(stamp.path) for stamp in self.weight_files])[0]
        except LOADING_ERRORS:
            same = None
        if same is None or self.adapted_revision(same) != self.revision:
            raise UserError(
                f"--model {self.name}: '{changed[0].path}' changed after the model was loaded, so results would be of "
                "two models; restore the file, or start a new run with the changed model"
            )

    def adapted_revision(self, base: str) -> str:
        """The fingerprint of a model whose weights alone have the fingerprint ``base``."""
        return base if self.adapter is None else self.adapter.revision(base)

    def encode(self, text: str) -> list[int]:
        """Token ids of a question, as ``asking`` says, with the special tokens that the model expects at the start."""
        shots = self.asking.shots.rows
        if self.asking.format == "chat":
            return chat_token_ids(self.tokenizer, shots, text)
        return self.encode_text("".join(f"{shot.question}{shot.target}{SHOT_SEPARATOR}" for shot in shots) + text)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text as it is, with the special tokens that the model expects at the start of a text."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        if not ids or ids[-1] not in self.end_ids:
            return ids
        # Some tokenizers append the end token to every text, but the answer is still to come. The text's own stays.
        own = self.encode_continuation(text)
        return ids if own and ids[-len(own) :] == own else ids[:-1]

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of a text that follows a question, without special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def encode_target(self, text: str) -> list[int]:
        """Token ids of the target text after a question, with the token at which the model stops."""
        turn_end = self.asking.turn_end
        if turn_end is None:
            return [*self.encode_continuation(text), self.end_ids[0]]
        return [*self.encode_continuation(text.strip()), turn_end]

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


def _size(model: PreTrainedModel) -> str:
    count = sum(parameter.numel() for parameter in model.parameters())
    if count < 10**5:
        return f"{count:,}"
    return f"{count / 1e9:.1f}B" if count >= 10**9 else f"{count / 1e6:.1f}M"


def with_end(lm: FrozenLM) -> FrozenLM:
    """``lm`` itself. Raises ``UserError`` if neither model nor tokenizer has an end token."""
    if not lm.end_ids:
        raise UserError(
            f"{lm.name}: neither model nor tokenizer has an end token; set eos_token in its tokenizer_config.json"
        )
    return lm
