"""Quantized weights: 4 bits of bitsandbytes are computed exactly, 8 bits are refused.

A 4-bit layer unpacks its weights to the type of the computation and multiplies with them, so it equals a layer of the
unpacked weights, row by row. In 8 bits (LLM.int8) bitsandbytes also quantizes activations: it picks the columns with
outliers over all rows of a batch, so the logits of a row depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

from dpc.errors import UserError
from dpc.model.gguf_file import SUFFIX

Dtype = torch.dtype | Literal["auto"]
QUANTIZE = ("4bit", "8bit")
_NEIGHBOURS = (
    "8 bits of bitsandbytes make the answer to a question depend on the questions beside it (columns with outliers are "
    "chosen over a whole batch), so answers could not be reproduced"
)


def check_quantize(name: str, quantize: str | None) -> None:
    """Raise ``UserError`` for a way that is none or not exact, or where the model ``name`` is quantized already."""
    if quantize is not None and quantize not in QUANTIZE:
        raise UserError(f"--quantize {quantize}: expected 4bit")
    if quantize == "8bit":
        raise UserError(f"--quantize 8bit: {_NEIGHBOURS}; use --quantize 4bit, or a 16-bit --dtype")
    if quantize and name.lower().endswith(SUFFIX):
        raise UserError(f"--quantize {quantize}: --model {name} is a GGUF file, quantized already; leave it out")


def refuse_quantized(name: str, config: PreTrainedConfig, quantize: str | None, dtype: Dtype) -> None:
    """Check how the weights are stored, and how they are to be quantized on loading (``quantize``: one of QUANTIZE).

    Raises ``UserError`` for 8 bits, or if bitsandbytes is needed and not installed. Checkpoints quantized by other
    methods are refused by ``dpc.model.features``.
    """
    stored = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(decoder=True), "quantization_config", None
    )
    if quantize and dtype == torch.float64:
        raise UserError(f"--quantize {quantize}: 4 bits compute in float32, bfloat16 or float16, not float64")
    if stored:
        _refuse_stored(name, stored if isinstance(stored, Mapping) else stored.to_dict(), quantize)
    if (stored or quantize) and find_spec("bitsandbytes") is None:
        raise UserError(
            f"--model {name}: weights in 4 bits need the package bitsandbytes, which is not installed: "
            "pip install bitsandbytes"
        )


def _refuse_stored(name: str, stored: Mapping[str, Any], quantize: str | None) -> None:
    if quantize is not None:
        raise UserError(f"--quantize {quantize}: --model {name} is stored quantized already; leave it out")
    if stored.get("load_in_8bit"):
        raise UserError(f"--model {name}: {_NEIGHBOURS}; load a checkpoint that is not quantized, with --quantize 4bit")


def quantization(quantize: str | None, dtype: Dtype) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that quantize weights on loading: NormalFloat4, computing in ``dtype``."""
    if quantize is None:
        return {}
    # Loaded layers compute in the type of the model, whatever it is (``make_exact``).
    computing = torch.float32 if dtype == "auto" else dtype
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=computing
        )
    }


def make_exact(name: str, model: PreTrainedModel) -> None:
    """Let 4-bit layers, if there are any, compute with their own weights in the type of the model.

    On some CPUs bitsandbytes replaces the weights of a layer in its first pass without a gradient by others in a layout
    of their own, rounded to bfloat16, which have no backward pass.
    Raises ``UserError`` for layers in 8 bits, and for weights that were replaced already.
    """
    for module in model.modules():
        layer = type(module).__name__
        if layer == "Linear8bitLt":
            raise UserError(f"{name}: {_NEIGHBOURS}; load it in 4 bits (load_in_4bit=True)")
        if layer not in ("Linear4bit", "LinearFP4", "LinearNF4"):
            continue
        four_bit: Any = module
        if getattr(four_bit.weight.quant_state, "packing_format_for_cpu", False):
            raise UserError(f"{name}: bitsandbytes changed its weights in a pass before it came here; load it again")
        four_bit.support_avx512bf16_for_cpu = False
        four_bit.compute_dtype, four_bit.compute_type_is_set = model.dtype, True
