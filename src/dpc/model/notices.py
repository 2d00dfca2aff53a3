"""What a user should know about a model before it is used, one line each."""

from __future__ import annotations

from typing import Any

from dpc.model.lm import FrozenLM

# Fields of generation_config.json that make ``generate`` choose other tokens than the greedy ones, each with the value
# that has no effect. None has none either.
_OTHER_TOKENS: dict[str, Any] = {
    "num_beams": 1,
    "penalty_alpha": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "exponential_decay_length_penalty": None,
    "bad_words_ids": None,
    "sequence_bias": None,
    "force_words_ids": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "guidance_scale": 1.0,
    "dola_layers": None,
    "watermarking_config": None,
    "stop_strings": None,
}
# These apply to sampling alone.
_SAMPLING: dict[str, Any] = {"temperature": None, "top_k": None, "top_p": None, "min_p": None, "typical_p": None}


def notices(lm: FrozenLM) -> tuple[str, ...]:
    """What differs from what a user of this model may expect: a shorter context, unused settings, a foreign adapter."""
    found = []
    if lm.context_limit.reason:
        found.append(f"{lm.name}: sequences are limited to {lm.context_limit}")
    unused = _unused_settings(lm)
    if unused:
        found.append(f"{lm.name}: decoding is greedy; its generation_config.json is not used for {', '.join(unused)}")
    other = None if lm.adapter is None else lm.adapter.other_base(lm.name)
    if other is not None:
        found.append(other)
    return tuple(found)


def _unused_settings(lm: FrozenLM) -> list[str]:
    config = lm.model.generation_config
    considered = _OTHER_TOKENS | (_SAMPLING if getattr(config, "do_sample", None) else {})
    values = {name: getattr(config, name, None) for name in considered}
    return [
        f"{name} ({value})" if isinstance(value, int | float) else name
        for name, value in values.items()
        if value is not None and value != considered[name] and value != []
    ]
