"""Compare our attention with the model's own eager attention before first use. A model that differs is refused."""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.masking_utils import eager_mask

from dpc.errors import UserError
from dpc.model.attention_call import AttentionCall
from dpc.model.attention_switch import AttentionImplementation
from dpc.model.blocks import decoder_blocks, has_states
from dpc.model.capture import SUPPORTED, layer_index, observed_attention, require_interface
from dpc.model.lm import FrozenLM
from dpc.model.short_windows import LONGEST_WINDOW, WINDOWS, short_windows

_REFERENCE = "dpc_eager_reference"

# Largest relative Frobenius error of one layer's attention on equal inputs, computed in float32 or better.
_LAYER_TOLERANCE = 1e-4
# Largest error of a whole forward pass: rounding accumulates, and in 16 bits may route a token to another expert.
_PASS_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3}
_PASS_TOLERANCE_16_BITS = 0.5
# Positions of the checked sequence. Windows up to LONGEST_WINDOW are exceeded by _PAST_WINDOW, others shortened.
_LENGTH, _PAST_WINDOW = 32, 16


@dataclass(frozen=True, slots=True)
class _Reproduced:
    """modules: the name of each layer's attention module. only_keys: as ``keeps_only_keys`` says.

    outputs: length of the tuple that a block returns, of which the first entry is the hidden states; 0 for no tuple.
    """

    modules: dict[int, str]
    only_keys: bool
    outputs: int


# Models that passed. The result belongs to the model object.
_REPRODUCED: weakref.WeakKeyDictionary[PreTrainedModel, _Reproduced] = weakref.WeakKeyDictionary()


def check_reproduces(lm: FrozenLM) -> None:
    """Compare captured attention with the model's own eager attention, once per model object.

    One short random sequence runs as a whole, and its end again after a prefix of keys and values, unless layers keep
    other states. Every layer with softmax attention is compared on equal inputs, then the attention probabilities and
    logits of the whole forward pass.

    Raises:
        UserError: the attention of this architecture cannot be reproduced; it has no softmax attention; or the model
            is in training mode.
    """
    model = lm.model
    if model.training:
        raise UserError(f"model {lm.name!r}: training mode drops values at random, expected none; call model.eval()")
    if model in _REPRODUCED:
        return
    require_interface(model)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(lm.vocab_size, (1, check_length(lm)), generator=generator)
    with torch.inference_mode(False), torch.no_grad(), short_windows(model):
        embedded = lm.embed(ids.to(lm.device))
        captured = _captured(lm, embedded)
        only_keys = len(captured.modules) == lm.layers and not has_states(model)
        # Without the config, so that layers with a sliding window keep all positions as well.
        cache = DynamicCache() if only_keys else None
        with eager_reference(model):
            given = {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
            own = model(inputs_embeds=embedded, output_attentions=True, **given)
        _require_equal_passes(lm, captured, own)
        if cache is not None:
            prefix = embedded.shape[1] // 3
            cache.crop(prefix - embedded.shape[1])
            after = _captured(lm, embedded[:, prefix:], cache)
            what = "logits after a prefix"
            require_equal(lm, what, after.logits, own.logits[:, prefix:], pass_tolerance(lm.dtype))
    names = {id(module): name for name, module in model.named_modules()}
    modules = {layer: names[id(captured.modules[layer])] for layer in sorted(captured.modules)}
    _REPRODUCED[model] = _Reproduced(modules, only_keys, captured.outputs)


def attention_modules(lm: FrozenLM) -> dict[int, nn.Module]:
    """The module that computes the attention of each layer; layers without softmax attention are left out.

    Raises what ``check_reproduces`` raises.
    """
    check_reproduces(lm)
    return {layer: lm.model.get_submodule(name) for layer, name in _REPRODUCED[lm.model].modules.items()}


def softmax_layers(lm: FrozenLM) -> tuple[int, ...]:
    """The layers with softmax attention, ascending: saliency is defined for these. At least one.

    Raises what ``check_reproduces`` raises.
    """
    check_reproduces(lm)
    return tuple(_REPRODUCED[lm.model].modules)


def keeps_only_keys(lm: FrozenLM) -> bool:
    """Whether positions leave nothing but keys and values: no convolution, state space or linear attention.

    Raises what ``check_reproduces`` raises.
    """
    check_reproduces(lm)
    return _REPRODUCED[lm.model].only_keys


def as_block_output(lm: FrozenLM, hidden: Float[Tensor, "batch row d"]) -> Any:
    """``hidden`` as the blocks of this model return it: alone, or first in a tuple (Bamba, Falcon-H1).

    Raises what ``check_reproduces`` raises.
    """
    check_reproduces(lm)
    others = _REPRODUCED[lm.model].outputs - 1
    return hidden if others < 0 else (hidden, *[None] * others)


def check_length(lm: FrozenLM) -> int:
    """How many positions a checked sequence has: more than a window inside ``short_windows``, at most the context."""
    config = lm.model.config.get_text_config()
    windows = (getattr(config, name, None) for name in WINDOWS)
    short = [window for window in windows if isinstance(window, int) and window <= LONGEST_WINDOW]
    return min(max([_LENGTH, *(window + _PAST_WINDOW for window in short)]), lm.context)


@contextmanager
def eager_reference(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model computes attention with its own eager function and mask, in float32 or better.

    In 16 bits the eager function rounds every logit, which can change probabilities by several percent.
    """
    AttentionInterface.register(_REFERENCE, _eager_attention)
    AttentionMaskInterface.register(_REFERENCE, eager_mask)
    with AttentionImplementation(model).switched(_REFERENCE):
        yield


def _eager_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **keywords: Any
) -> tuple[Tensor, Tensor]:
    precision = torch.promote_types(query.dtype, torch.float32)
    query_key_value = (part.to(precision) for part in (query, key, value))
    output, attention = _eager_function(module)(module, *query_key_value, attention_mask, **keywords)
    return output.to(query.dtype), attention


def _eager_function(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor]]:
    """The eager attention function in the Python module that defines the class of ``module``."""
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if eager is None:
        raise UserError(f"{type(module).__name__} has no eager attention to be compared with; {SUPPORTED}")
    function: Callable[..., tuple[Tensor, Tensor]] = eager
    return function


def pass_tolerance(dtype: torch.dtype) -> float:
    """Largest relative Frobenius error between two exact computations of a whole forward pass in ``dtype``."""
    return _PASS_TOLERANCE.get(dtype, _PASS_TOLERANCE_16_BITS)


def require_equal(
    lm: FrozenLM, what: str, ours: Float[Tensor, "..."], theirs: Float[Tensor, "..."], tolerance: float
) -> None:
    """Raise ``UserError``, with ``what`` differs, unless the relative Frobenius error is at most ``tolerance``."""
    precision = torch.promote_types(ours.dtype, torch.float32)
    ours, theirs = ours.to(precision), theirs.to(device=ours.device, dtype=precision)
    difference = float((ours - theirs).norm()) if ours.shape == theirs.shape else math.inf
    error = difference and difference / max(float(theirs.norm()), torch.finfo(precision).tiny)
    # Written so that NaN is refused, too.
    if not error <= tolerance:
        raise UserError(
            f"model {lm.name!r}: {what} differs from the model's own by {error:.1e} where at most {tolerance:.0e} was "
            f"expected, so results would be wrong; {SUPPORTED}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Captured:
    """A captured pass: the attention module and probabilities of each layer, and the logits.

    outputs: length of the tuple that a block returns, 0 where it returns hidden states alone.
    """

    modules: dict[int, nn.Module]
    attention: dict[int, Float[Tensor, "1 head row column"]]
    logits: Float[Tensor, "1 row vocab"]
    outputs: int


def _captured(lm: FrozenLM, embedded: Float[Tensor, "1 row d"], cache: DynamicCache | None = None) -> _Captured:
    """Run one captured pass, and compare every layer with the model's eager attention function."""
    modules: dict[int, nn.Module] = {}
    attention: dict[int, Tensor] = {}

    def compare(module: nn.Module, keywords: dict[str, Any], call: AttentionCall, output: Tensor) -> Tensor:
        layer = layer_index(module)
        _require_equal_to_eager(lm, layer, module, keywords, call)
        modules[layer], attention[layer] = module, _probabilities(call)
        return output

    outputs = [0]

    def count(_: nn.Module, __: Any, output: Any) -> None:
        outputs.append(len(output) if isinstance(output, tuple) else 0)

    with observed_attention(lm.model, compare), ExitStack() as stack:
        # Without one list of blocks, nothing is computed block by block.
        with suppress(UserError):
            stack.callback(decoder_blocks(lm.model)[-1].register_forward_hook(count).remove)
        output = lm.model(inputs_embeds=embedded, past_key_values=cache, use_cache=cache is not None)
    return _Captured(modules, attention, output.logits, outputs[-1])


def _require_equal_passes(lm: FrozenLM, captured: _Captured, own: Any) -> None:
    """Compare attention and logits with those that the model returns under its eager attention."""
    length = captured.logits.shape[1]
    own_attention = [part for part in own.get("attentions") or () if _is_causal_attention(part, length)]
    seen = sorted(captured.attention)
    if not seen and not own_attention:
        raise UserError(
            f"model {lm.name!r}: nothing can be traced, since {type(lm.model).__name__} has no softmax attention; "
            "methods without a trace work (pretrained, prompt_tuning)"
        )
    if not seen:
        raise UserError(
            f"{type(lm.model).__name__} has no exchangeable attention (AttentionInterface), so it cannot be traced; "
            f"{SUPPORTED}"
        )
    if len(own_attention) != len(seen):
        reason = f"{len(seen)} attention layers seen where the model itself reports {len(own_attention)}"
        raise UserError(f"model {lm.name!r}: {reason}; {SUPPORTED}")
    tolerance = pass_tolerance(lm.dtype)
    for layer, theirs in zip(seen, own_attention, strict=True):
        require_equal(lm, f"attention of layer {layer}", captured.attention[layer], theirs, tolerance)
    require_equal(lm, "the logits", captured.logits, own.logits, tolerance)


def _is_causal_attention(part: Tensor | None, length: int) -> bool:
    """Whether what a model reports as attention is that of a softmax: other layers report their states (MiniMax)."""
    if part is None or part.dim() != 4 or part.shape[-2:] != (length, length):
        return False
    slack = 1e-2
    return bool((part >= 0).all() and (part.triu(1) <= slack).all() and (part.sum(-1) <= 1 + slack).all())


def _require_equal_to_eager(
    lm: FrozenLM, layer: int, module: nn.Module, keywords: dict[str, Any], call: AttentionCall
) -> None:
    """Compare our probabilities and output with the model's eager attention function."""
    query, key, value = (part.to(call.precision) for part in (call.query, call.key, call.value))
    call = replace(call, query=query, key=key, value=value)
    mask = call.additive_mask(call.rows, call.columns).clamp(min=torch.finfo(query.dtype).min)
    output, attention = _eager_function(module)(module, query, key, value, mask, **keywords)
    require_equal(lm, f"attention of layer {layer}", _probabilities(call), attention, _LAYER_TOLERANCE)
    require_equal(lm, f"output of layer {layer}", call.output(), output.transpose(1, 2), _LAYER_TOLERANCE)


def _probabilities(call: AttentionCall) -> Float[Tensor, "batch head row column"]:
    return call.probabilities(call.rows, call.columns)
