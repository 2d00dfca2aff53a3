"""``wrap_model``: a ``FrozenLM`` of a model that is in memory already."""

from __future__ import annotations

import sys

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dpc.errors import UserError
from dpc.model.context import without_temperature
from dpc.model.features import refuse_features
from dpc.model.fingerprint import weights_fingerprint
from dpc.model.lm import FrozenLM, with_end
from dpc.model.peft_adapter import SOFT_PROMPTS
from dpc.model.quantized import make_exact


def wrap_model(model: nn.Module, tokenizer: PreTrainedTokenizerBase, name: str | None = None) -> FrozenLM:
    """Wrap a causal language model that is loaded already. It is used as it is, not copied.

    The model is set to evaluation mode, and no parameter stays trainable. Its weights are hashed in full.
    model: a transformers model, or a PEFT model with a soft prompt, of which the base model is taken (``prompt_of``
    takes its soft prompt). name: where it was loaded from, as transformers recorded it, if None.
    Raises ``UserError`` for another kind of model, for a feature that cannot be computed exactly, or if
    neither model nor tokenizer has an end token.
    """
    base = _base_model(model)
    base.eval().requires_grad_(False)
    without_temperature(base)
    name = name or str(base.config.name_or_path) or type(base).__name__
    refuse_features(name, base.config)
    make_exact(name, base)
    return with_end(FrozenLM(base, tokenizer, name, weights_fingerprint(base)))


def _base_model(model: nn.Module) -> PreTrainedModel:
    # A PEFT model exists only if PEFT is imported, and importing it takes seconds.
    peft = sys.modules.get("peft")
    if peft is not None and isinstance(model, peft.PeftModel):
        kind = str(model.active_peft_config.peft_type.value)
        if kind not in SOFT_PROMPTS:
            raise UserError(
                f"{type(model).__name__} with a {kind} adapter: expected a soft prompt ({', '.join(SOFT_PROMPTS)}), or "
                "a model without an adapter; merge the adapter into the model (merge_and_unload) and pass the result"
            )
        model = model.get_base_model()
    if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None:
        raise UserError(
            f"{type(model).__name__}: expected a causal language model of transformers; "
            "load it with AutoModelForCausalLM"
        )
    return model
