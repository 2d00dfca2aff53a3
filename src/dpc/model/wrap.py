"""``wrap_model``: a ``FrozenLM`` of a model that is in memory already."""

from __future__ import annotations

import sys

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dpc.errors import UserError
from dpc.model.context import without_temperature
from dpc.model.features import refuse_features
from dpc.model.fingerprint import weights_fingerprint
from dpc.model.layer_adapter import LayerAdapter, adapter_in_memory, check_layer_adapter
from dpc.model.lm import FrozenLM, with_end
from dpc.model.peft_adapter import SOFT_PROMPTS
from dpc.model.quantized import make_exact


def wrap_model(model: nn.Module, tokenizer: PreTrainedTokenizerBase, name: str | None = None) -> FrozenLM:
    """Wrap a causal language model that is loaded already. It is used as it is, not copied.

    The model is set to evaluation mode, and no parameter stays trainable. Its weights are hashed in full.
    model: a transformers model or a PEFT model. The layers of an adapter (LoRA ...) stay in it. Of a PEFT model with a
    soft prompt the base model is taken (``prompt_of`` takes its soft prompt). name: where it was loaded from, as
    transformers recorded it, if None.
    Raises ``UserError`` for another kind of model, for a feature that cannot be computed exactly, or if
    neither model nor tokenizer has an end token.
    """
    base, adapter = _base_model(model)
    base.eval().requires_grad_(False)
    without_temperature(base)
    name = name or str(base.config.name_or_path) or type(base).__name__
    refuse_features(name, base.config)
    make_exact(name, base)
    revision = weights_fingerprint(base)
    revision = revision if adapter is None else adapter.revision(revision)
    return with_end(FrozenLM(base, tokenizer, name, revision, adapter=adapter))


def _base_model(model: nn.Module) -> tuple[PreTrainedModel, LayerAdapter | None]:
    base = model
    # A PEFT model exists only if PEFT is imported, and importing it takes seconds.
    peft = sys.modules.get("peft")
    if peft is not None and isinstance(model, peft.PeftModel):
        kind = str(model.active_peft_config.peft_type.value)
        if kind not in SOFT_PROMPTS:
            check_layer_adapter(f"{type(model).__name__}", kind, model.active_peft_config.to_dict())
        base = model.get_base_model()
    if not isinstance(base, PreTrainedModel) or base.get_output_embeddings() is None:
        raise UserError(
            f"{type(base).__name__}: expected a causal language model of transformers; "
            "load it with AutoModelForCausalLM"
        )
    return base, adapter_in_memory(base)
