"""Search of the heads that ACT calibrates: each is tried alone on held-out rows, kept if accuracy rises."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dpc.engine import Decoder, Request, by_length, check_fits
from dpc.engine.plain import greedy, prefill_inputs
from dpc.errors import UserError
from dpc.files import read_json, write_atomically, write_json
from dpc.methods.act_attention import Head, SinkCalibration, calibrated_attention, layers_to_calibrate
from dpc.model.lm import FrozenLM
from dpc.prompt.asked import asked_with, describe_asking
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.records.directory import RecordFile, RunDirectory, source_state, versions
from dpc.run.data import Data, row_keys
from dpc.run.inputs import describe_model, recorded
from dpc.run.reporter import SILENT, Progress, Reporter
from dpc.settings import ActSettings, Settings
from dpc.types import Generation

ACT = "act.json"
SEARCH = "act_search.jsonl"
# Logits of every token of an answer are looked at: at most this many numbers in one pass.
_LOGITS_ELEMENTS = 2**26


@dataclass(frozen=True, slots=True)
class TriedHead:
    """A head, and which rows are answered right where it alone is calibrated."""

    layer: int
    head: int
    right: tuple[bool, ...]


def heads_to_try(layers: Sequence[int], heads: int, settings: ActSettings) -> list[Head]:
    """Every head of the middle layers, or ``max_heads`` of them at equal distances.

    layers: those with softmax attention; others are not counted. Raises ``UserError`` where none of them lies between
    ``layer_start`` and ``layer_stop``.
    """
    count = len(layers)
    middle = layers[math.ceil(settings.layer_start * count) : math.floor(settings.layer_stop * count)]
    every = [(layer, head) for layer in middle for head in range(heads)]
    if not every:
        raise UserError(
            f"act.layer_start {settings.layer_start} to act.layer_stop {settings.layer_stop}: none of {count} layers "
            "lies between them; expected fractions of the depth further apart"
        )
    count = min(settings.max_heads or len(every), len(every))
    return [every[index * len(every) // count] for index in range(count)]


def answer_calibrated(
    decoder: Decoder,
    requests: Sequence[Request],
    uncalibrated: Sequence[Generation],
    max_new_tokens: int,
    calibration: SinkCalibration,
) -> list[Generation]:
    """Greedy answers with calibrated heads, where those without are known.

    One pass checks a whole answer: most heads change few answers, and only what they change is decoded again.
    """
    answers, lm = list(uncalibrated), decoder.lm
    changed: list[int] = []
    longest = max(len(answer.ids) for answer in answers) + 1
    size = max(1, min(decoder.settings.batch_size, _LOGITS_ELEMENTS // (longest * lm.vocab_size)))
    for batch in by_length(requests, size):
        kept = keeps_answers(lm, [requests[i] for i in batch], [answers[i] for i in batch], calibration)
        changed += [index for index, same in zip(batch, kept, strict=True) if not same]
    left = [requests[index] for index in changed]
    for batch in by_length(left, decoder.settings.batch_size):
        with calibrated_attention(lm, calibration) as cache:
            made = greedy(lm, [left[i] for i in batch], max_new_tokens, cache)
        for index, generation in zip(batch, made, strict=True):
            answers[changed[index]] = generation
    return answers


@torch.no_grad()
def keeps_answers(
    lm: FrozenLM, requests: Sequence[Request], answers: Sequence[Generation], calibration: SinkCalibration
) -> list[bool]:
    """Whether each request would get the same answer with calibrated heads, by one pass over questions and answers."""
    embeds, mask, positions = prefill_inputs(lm, requests)
    longest = max(len(answer.ids) for answer in answers)
    ids = torch.tensor([[*a.ids, *[0] * (longest - len(a.ids))] for a in answers], dtype=torch.long, device=lm.device)
    written = torch.tensor([len(answer.ids) for answer in answers], device=lm.device)
    steps = torch.arange(longest, device=lm.device)
    following = (positions[:, -1:] + 1 + steps).clamp(max=lm.context - 1)
    with calibrated_attention(lm, calibration) as cache:
        cache.block = embeds.shape[1]
        logits = lm.model(
            inputs_embeds=torch.cat([embeds, lm.embed(ids)], dim=1),
            attention_mask=torch.cat([mask, (steps < written[:, None]).to(mask)], dim=1),
            position_ids=torch.cat([positions, following], dim=1),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=longest + 1,
        ).logits
    kept = []
    for predicted, answer in zip(logits.argmax(-1).tolist(), answers, strict=True):
        length = len(answer.ids)
        ends = answer.finish == "length" or predicted[length] in lm.end_ids
        kept.append(ends and tuple(predicted[:length]) == answer.ids)
    return kept


def search_heads(
    lm: FrozenLM,
    prompt: SoftPrompt,
    directory: Path,
    data: Data,
    settings: Settings,
    run: RunDirectory,
    report: Reporter = SILENT,
) -> dict[str, Any]:
    """Try heads on the first ``act.rows`` rows of ``data``; store those that help in ``directory``, beside the adapter.

    Every head that was tried is kept in ``act_search.jsonl``, so that an interrupted search goes on.
    Raises ``UserError`` for a question that doesn't fit the context, or no heads to try.
    """
    lm = asked_with(lm, prompt, settings.task.chat)
    held_out, act = _held_out(data, settings), settings.act
    max_new_tokens = settings.decoding.max_new_tokens or data.task.max_new_tokens
    made_from = search_inputs(lm, prompt.sha256, data, settings)
    heads = heads_to_try(layers_to_calibrate(lm), int(lm.config.num_attention_heads), act)
    requests = _requests(lm, prompt, held_out)
    file = run.path / SEARCH
    run.restart("act", made_from, RecordFile(file), recorded=recorded(settings))
    tried = _read(file)
    decoder = Decoder(lm, settings.decoding)
    uncalibrated = decoder.all(requests, max_new_tokens)

    def right(*chosen: Head) -> tuple[bool, ...]:
        calibration = SinkCalibration(chosen, act.alpha, act.beta)
        answers = uncalibrated
        if chosen:
            answers = answer_calibrated(decoder, requests, uncalibrated, max_new_tokens, calibration)
        scored = zip(held_out.examples, answers, strict=True)
        return tuple(data.task.score(example, answer.text).correct for example, answer in scored)

    baseline = right()
    if len(tried) < len(heads):
        report.progress(Progress("act", len(tried), len(heads)))
    for layer, head in heads[len(tried) :]:
        tried.append(TriedHead(layer, head, right((layer, head))))
        write_atomically(file, "".join(json.dumps(asdict(each)) + "\n" for each in tried).encode())
        kept = sum(sum(t.right) > sum(baseline) for t in tried)
        report.progress(Progress("act", len(tried), len(heads), f"{kept} heads kept"))
    chosen = [(each.layer, each.head) for each in tried if sum(each.right) > sum(baseline)]
    lm.verify_unchanged()
    stored = {
        "format": 1,
        "heads": [list(head) for head in chosen],
        "n": len(baseline),
        "uncalibrated": sum(baseline) / len(baseline),
        "calibrated": sum(right(*chosen)) / len(baseline),
        "tried": [_describe(each, baseline) for each in tried],
        "from": made_from,
        "rows": sorted(row_keys(held_out)),
        "versions": versions(),
        "source": source_state(),
    }
    write_json(directory / ACT, stored)
    report.say(_in_words(stored, data.split))
    return stored


def _requests(lm: FrozenLM, prompt: SoftPrompt, data: Data) -> list[Request]:
    requests = [Request(lm.encode(data.task.prompt(example)), prompt) for example in data.examples]
    for example, request in zip(data.examples, requests, strict=True):
        check_fits(lm, request, example.id)
    return requests


def _in_words(stored: Mapping[str, Any], split: str) -> str:
    found = f"{len(stored['heads'])} of {len(stored['tried'])} heads raise accuracy alone on {stored['n']} rows"
    outcome = (
        f"{stored['calibrated']:.1%} right with all of these calibrated, {stored['uncalibrated']:.1%} with none"
        if stored["heads"]
        else "act will answer as prompt tuning does"
    )
    return f"{found} of {split}: {outcome}"


def load_act(directory: Path, lm: FrozenLM, prompt: SoftPrompt, task: str, settings: Settings) -> dict[str, Any] | None:
    """What a search of heads has left beside an adapter; None where there is none.

    Raises ``UserError`` where it was made for another model, prompt or task, or with other settings.
    """
    path = directory / ACT
    if not path.exists():
        return None
    stored: dict[str, Any] = read_json(path, "search of heads")
    try:
        made_from = stored["from"]
        found = {
            "another model": made_from["model"]["revision"],
            "another prompt": made_from["prompt_sha256"],
            "another format of questions": made_from["asked"],
            "another task": made_from["data"]["task"],
        } | {f"another act.{name}": value for name, value in made_from["act"].items()}
        whole = {"rows", "tried"} <= stored.keys() and all(len(head) == 2 for head in stored["heads"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is not a search of heads; run `dpc calibrate --method act` again") from error
    if not whole:
        raise UserError(f"{path}: is not a whole search of heads; run `dpc calibrate --method act` again")
    wanted = {
        "another model": lm.revision,
        "another prompt": prompt.sha256,
        "another format of questions": describe_asking(lm),
        "another task": task,
    }
    wanted |= {f"another act.{name}": value for name, value in settings.act.model_dump().items()}
    other = [name for name in wanted if wanted[name] != found.get(name)]
    if other:
        raise UserError(
            f"{path}: heads were searched with {', '.join(other)}; run `dpc calibrate --method act` again, or set what "
            "was set then"
        )
    return stored


def _held_out(dev: Data, settings: Settings) -> Data:
    return replace(dev, examples=dev.examples[: settings.act.rows])


def search_inputs(lm: FrozenLM, prompt_sha256: str, dev: Data, settings: Settings) -> dict[str, Any]:
    """What a search for heads is made from. lm: as it is asked."""
    return {
        "model": describe_model(lm),
        "asked": describe_asking(lm),
        "prompt_sha256": prompt_sha256,
        "data": _held_out(dev, settings).describe(),
        "act": settings.act.model_dump(),
        "max_new_tokens": settings.decoding.max_new_tokens or dev.task.max_new_tokens,
    }


def _describe(tried: TriedHead, baseline: Sequence[bool]) -> Mapping[str, Any]:
    pairs = list(zip(baseline, tried.right, strict=True))
    return {
        "layer": tried.layer,
        "head": tried.head,
        "accuracy": sum(tried.right) / len(baseline),
        "fixed": pairs.count((False, True)),
        "broken": pairs.count((True, False)),
    }


def _read(file: Path) -> list[TriedHead]:
    """Heads that were tried before, in the order of ``heads_to_try``."""
    if not file.exists():
        return []
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return [TriedHead(line["layer"], line["head"], tuple(line["right"])) for line in lines]
