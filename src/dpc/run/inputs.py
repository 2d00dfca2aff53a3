"""The inputs that identify each stage of a run. A stage that was begun from other inputs is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from dpc.methods.method import Method, Setup
from dpc.model.blocks import softmax_blocks
from dpc.model.lm import FrozenLM
from dpc.prompt.asked import describe_asking
from dpc.run.data import Data
from dpc.settings import Settings

# What is chosen before an evaluation, and only some methods need.
CHOSEN = (
    *("prompt_sha256", "others_sha256", "tau", "trigger_rate", "act_sha256"),
    *("asked_with_prompt", "asked_without_prompt"),
)


def describe_model(lm: FrozenLM) -> dict[str, Any]:
    """What identifies a model."""
    described = {"name": lm.name, "revision": lm.revision, "dtype": str(lm.dtype).removeprefix("torch.")}
    described |= {"quantized": lm.quantized} if lm.quantized else {}
    described |= {} if lm.adapter is None else {"adapter": lm.adapter.name, "adapter_sha256": lm.adapter.sha256}
    traced, hybrid = softmax_blocks(lm.model), {}
    if len(traced) != lm.layers:
        # Saliency is that of these; shallow and last layers are counted among them.
        hybrid = {"layers": lm.layers, "softmax_layers": list(traced)}
    return described | hybrid | ({"trust_remote_code": True} if lm.trust_remote_code else {})


def recorded(settings: Settings) -> dict[str, Any]:
    """Settings that are recorded and do not identify a stage: in float32 they change no answer."""
    return {"decoding": settings.decoding.model_dump()}


def tuning_inputs(lm: FrozenLM, train: Data, dev: Data, settings: Settings) -> dict[str, Any]:
    """What a tuned prompt follows from. lm: as it is asked."""
    return {
        "model": describe_model(lm),
        "asked": describe_asking(lm),
        "train": train.describe(),
        "dev": dev.describe(),
        "tuning": settings.tuning.deciding(),
        "max_new_tokens": _max_new_tokens(settings, dev),
    }


def calibration_inputs(
    lm: FrozenLM, prompt_sha256: str, data: Data, settings: Settings, method: Method | None = None
) -> dict[str, Any]:
    """What a calibrated threshold follows from. lm: as it is asked. method: whose trigger it is, None for ``dpc``."""
    own = {} if method is None or not method.source else {"own_method": {"name": method.name, "source": method.source}}
    return {
        "model": describe_model(lm),
        "asked": describe_asking(lm),
        "prompt_sha256": prompt_sha256,
        "data": data.describe(),
        "method": settings.method.deciding(),
        "decoding": {"max_new_tokens": _max_new_tokens(settings, data)},
        **own,
    }


def evaluation_inputs(
    lm: FrozenLM, setup: Setup, data: Data, settings: Settings, asked: Mapping[str, FrozenLM] = MappingProxyType({})
) -> dict[str, Any]:
    """What the records of an evaluation follow from; ``CHOSEN`` are None where no method needed them yet.

    asked: the model as it is asked by methods ``with_prompt`` and ``without_prompt``.
    """
    act = None if setup.act_heads is None else {"heads": setup.act_heads, **setup.act.model_dump()}
    return {
        "model": describe_model(lm),
        "prompt_sha256": setup.soft_prompt.sha256 if setup.soft_prompt else None,
        "tau": setup.tau_of("flow"),
        "trigger_rate": setup.trigger_rate,
        **{
            f"asked_{how}": describe_asking(asked[how]) if how in asked else None
            for how in ("with_prompt", "without_prompt")
        },
        "others_sha256": [prompt.sha256 for prompt in setup.others] or None,
        "act_sha256": None if act is None else hashlib.sha256(json.dumps(act).encode()).hexdigest(),
        "data": data.describe(),
        "method": settings.method.model_dump(),
        "decoding": {"max_new_tokens": _max_new_tokens(settings, data)},
    }


def with_more_rows(known: dict[str, Any], data: Data) -> dict[str, Any]:
    """``known``, an evaluation's inputs, with all of ``data``, where its rows are the first of ``data``'s.

    So an evaluation of the first 100 rows goes on with 300. Returned as it is in any other case.
    """
    rows = known.get("data", {}).get("rows", 0)
    if not 0 < rows < len(data.examples):
        return known
    first = replace(data, examples=data.examples[:rows]).describe()
    return {**known, "data": data.describe()} if first == known["data"] else known


def own_method_inputs(method: Method, setup: Setup) -> dict[str, Any]:
    """What the records of a method with a file or a trigger of its own follow from, beside the evaluation's inputs."""
    trigger = method.trigger
    threshold = None if trigger is None else setup.need_threshold(method.name, trigger)
    return {"source": method.source, "threshold": threshold}


def _max_new_tokens(settings: Settings, data: Data) -> int:
    return settings.decoding.max_new_tokens or data.task.max_new_tokens
