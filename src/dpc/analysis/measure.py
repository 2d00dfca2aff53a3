"""Measurements of instances in a frozen model with its soft prompt: flows and whole heat maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from dpc.analysis.store import Array, InstanceFlow, InstanceMap
from dpc.flow.flow_map import flow_map
from dpc.flow.measures import (
    accumulation_profile,
    concentration,
    late_flow,
    prompt_to_question,
    prompt_to_rationale,
    rationale_influence,
)
from dpc.flow.saliency import prompt_saliency
from dpc.flow.shallow import shallow_layers
from dpc.flow.trigger import affected_share
from dpc.model.eager_check import softmax_layers
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import MethodSettings
from dpc.types import Saliency


def measure_flows(
    lm: FrozenLM,
    prompt: SoftPrompt,
    questions: Sequence[Sequence[int]],
    rationales: Sequence[Sequence[int]],
    settings: MethodSettings,
) -> list[InstanceFlow]:
    """The flow of each instance, over all layers; token ids in, one forward and one backward pass for all.

    Raises ``UserError`` as ``prompt_saliency`` does.
    """
    found = prompt_saliency(lm, prompt.vectors, questions, rationales, None, settings.head_reduction)
    shallow = shallow_layers(softmax_layers(lm), settings.shallow_start, settings.shallow_stop)
    return [_flow(saliency, shallow, settings) for saliency in found]


def _flow(saliency: Saliency, shallow: Sequence[int], settings: MethodSettings) -> InstanceFlow:
    profile = accumulation_profile(saliency, shallow, settings.shallow_aggregation)
    influence = rationale_influence(saliency, settings.row)
    affected = affected_share(influence)
    return InstanceFlow(
        to_question=_array(prompt_to_question(saliency)),
        to_rationale=_array(prompt_to_rationale(saliency)),
        profile=_array(profile),
        influence=_array(influence),
        concentration=np.array(concentration(profile)),
        late_flow=np.array(late_flow(influence)),
        beta=np.array(affected.beta),
        ratio=np.array(affected.ratio),
        layers=np.array(saliency.layers),
    )


def measure_map(
    lm: FrozenLM, prompt: SoftPrompt, question: Sequence[int], rationale: Sequence[int], settings: MethodSettings
) -> InstanceMap:
    """Whole heat maps of one instance: the mean over the shallow layers, and the last layer.

    Raises ``UserError`` as ``flow_map`` does.
    """
    known = softmax_layers(lm)
    shallow = shallow_layers(known, settings.shallow_start, settings.shallow_stop)
    layers = sorted({*shallow, known[-1]})
    found = flow_map(lm, prompt.vectors, question, rationale, layers, settings.head_reduction)
    chosen = [layers.index(layer) for layer in shallow]
    both = [np.stack([_array(m[chosen].mean(0)), _array(m[-1])]) for m in (found.saliency, found.attention)]
    tokens = [f"p{index}" for index in range(len(prompt.vectors))] + lm.token_texts([*question, *rationale])
    lengths = np.array([len(prompt.vectors), len(question), len(rationale)])
    return InstanceMap(saliency=both[0], attention=both[1], tokens=np.array(tokens), lengths=lengths)


def _array(values: Tensor) -> Array:
    found: Array = values.double().cpu().numpy()
    return found
