"""The prompt and all that was chosen for it: threshold, trigger rate, ACT's heads. Loaded in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpc.errors import UserError
from dpc.files import read_json
from dpc.methods.method import Method, Setup
from dpc.model.lm import FrozenLM
from dpc.prompt.asked import asked_with_all, describe_asking
from dpc.prompt.soft_prompt import SoftPrompt, load_adapter
from dpc.run.act_search import load_act
from dpc.settings import Settings
from dpc.types import NO_SHOTS, Shots

# Settings that the trigger does not depend on. Where only a trace is shown, another value needs no calibration.
_OF_CORRUPTION = (
    *("gamma", "prune_scope", "prune_by", "prune_rounding", "mask_key", "mask_value"),
    *("shallow_start", "shallow_stop", "shallow_aggregation", "accumulation_k", "corrupt_short", "random_may_draw_key"),
)


def calibration_file(trigger: str) -> str:
    """Name of the file beside an adapter that holds a trigger's calibration."""
    return "calibration.json" if trigger == "flow" else f"calibration_{trigger}.json"


def calibration_stage(trigger: str) -> str:
    """Name of the stage that calibrates a trigger."""
    return "calibrate" if trigger == "flow" else f"calibrate_{trigger}"


def calibration_records(trigger: str) -> str:
    """Name of the records from which a trigger's threshold was chosen."""
    return calibration_file(trigger).removesuffix(".json")


def load_prompt(lm: FrozenLM, prompt: Path | SoftPrompt | None, methods: Sequence[Method]) -> SoftPrompt | None:
    """The soft prompt, read where it is a folder; None where no method needs one.

    Raises ``UserError`` where one is needed and none is given, or what is given is none for this model.
    """
    if isinstance(prompt, SoftPrompt):
        check_width(lm, prompt)
        return prompt
    if prompt is not None:
        return load_adapter(lm, prompt)
    needing = [method.name for method in methods if "prompt" in method.requires]
    if not needing:
        return None
    raise UserError(
        f"methods {', '.join(needing)} need a soft prompt; pass --prompt DIR, a folder made by `dpc tune` or PEFT"
    )


def check_width(lm: FrozenLM, prompt: SoftPrompt) -> None:
    """Raise ``UserError`` unless the vectors of ``prompt`` are as long as the model's embeddings."""
    width = prompt.vectors.shape[1]
    if width != lm.hidden_size:
        raise UserError(
            f"prompt: its vectors have {width} values, but model '{lm.name}' expects {lm.hidden_size}; load the model "
            f"it was tuned on ({prompt.base_model})"
        )


def load_calibration(
    directory: Path,
    lm: FrozenLM,
    prompt: SoftPrompt,
    settings: Settings,
    trigger: str = "flow",
    *,
    source: str = "",
    any_corruption: bool = False,
) -> dict[str, Any] | None:
    """The calibration of ``trigger`` beside an adapter; None where there is none.

    lm: as it is asked with the prompt. source: of the method that brings the trigger, empty for ``flow``.
    any_corruption: settings that only the corruption depends on may differ from those of the calibration.
    Raises ``UserError`` where it is damaged, or was made for another prompt, with other settings, or with another
    version of the method's file.
    """
    path = directory / calibration_file(trigger)
    if not path.exists():
        return None
    stored: dict[str, Any] = read_json(path, "calibration")
    free = _OF_CORRUPTION if any_corruption else ()
    try:
        made_from, tau = stored["from"], float(stored["tau"])
        used, now = dict(made_from["method"]), settings.method.deciding()
        same = made_from["prompt_sha256"] == prompt.sha256
        same = same and all(used.get(name) == value for name, value in now.items() if name not in free)
        whole = math.isfinite(tau) and {"rows", "n"} <= stored.keys() and "task" in made_from["data"]
        whole = whole and tau in [point["tau"] for point in stored["curve"]]
        known = made_from.get("own_method", {"source": ""})["source"]
        # A Method that was passed as a value has no file to compare.
        same_file = "" in (known, source) or known == source
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: is not a calibration; run `dpc calibrate` again") from error
    if not whole:
        raise UserError(f"{path}: is not a whole calibration; run `dpc calibrate` again")
    if not same:
        raise UserError(f"{path}: tau {tau} was chosen for another prompt or other settings; run `dpc calibrate` again")
    if made_from.get("asked") != describe_asking(lm):
        raise UserError(f"{path}: tau {tau} was chosen with questions in another format; run `dpc calibrate` again")
    if not same_file:
        raise UserError(
            f"{path}: was chosen for another version of the method's file; run `dpc calibrate --method` with it again"
        )
    return stored


def refuse_to_shrink(path: Path, rows: int) -> None:
    """Raise ``UserError`` where ``path`` holds a choice that was made on more than ``rows`` rows."""
    if not path.exists():
        return
    stored = read_json(path, "calibration")
    known = stored.get("n") if isinstance(stored, dict) else None
    if isinstance(known, int) and known > rows:
        raise UserError(f"{path}: was chosen on {known} rows, not {rows}; pass --force to replace it, or more rows")


def trigger_rate(calibration: Mapping[str, Any]) -> float:
    """The share of the calibration's rows on which the chosen threshold triggers."""
    return next(float(p["trigger_rate"]) for p in calibration["curve"] if p["tau"] == calibration["tau"])


def load_setup(
    lm: FrozenLM,
    prompt: Path | SoftPrompt | None,
    methods: Sequence[Method],
    settings: Settings,
    *,
    task: str,
    tau: float | None = None,
    any_corruption: bool = False,
    shots: Shots = NO_SHOTS,
    others: Sequence[Path | SoftPrompt] = (),
) -> Setup:
    """All that ``methods`` are built from: the prompt, and what was chosen for it and is kept beside its adapter.

    prompt: folder of an adapter, or the prompt; None where no method needs one. task: what rows will be answered.
    tau: overrides every calibrated threshold. any_corruption: see ``load_calibration``. shots: worked examples for
    methods without a prompt. others: further prompts, for methods that use several.

    Raises ``UserError`` for a prompt, calibration or search of heads that is damaged or made for something else. A
    threshold that is not there is an error only when a method is built.
    """
    soft_prompt = load_prompt(lm, prompt, methods)
    directory = prompt if isinstance(prompt, Path) else None if soft_prompt is None else soft_prompt.directory
    further = tuple(p for each in others if (p := load_prompt(lm, each, methods)) is not None)
    plain = Setup(soft_prompt, tau, settings.method, act=settings.act, shots=shots, others=further)
    if soft_prompt is not None:
        lm = asked_with_all(lm, soft_prompt, further, settings.task.chat)
    if soft_prompt is None or directory is None:
        return plain
    chosen_on: dict[str, frozenset[str]] = {}
    found: dict[str, dict[str, Any]] = {}
    if tau is None:
        # DPC's own calibration is used by every method with its trigger, also by one from a file.
        sources = {m.calibrated: "" if m.calibrated == "flow" else m.source for m in methods if m.calibrated}
        for name, source in sorted(sources.items()):
            stored = load_calibration(
                directory, lm, soft_prompt, settings, name, source=source, any_corruption=any_corruption
            )
            if stored is not None:
                found[name] = stored
                chosen_on[f"choose the threshold of {name}"] = frozenset(stored["rows"])
    act = None
    if any("act_heads" in method.requires for method in methods):
        act = load_act(directory, lm, soft_prompt, task, settings)
        if act is not None:
            chosen_on["choose ACT's heads"] = frozenset(act["rows"])
    flow = found.get("flow")
    return replace(
        plain,
        trigger_rate=None if flow is None else trigger_rate(flow),
        act_heads=None if act is None else tuple((int(layer), int(head)) for layer, head in act["heads"]),
        thresholds={name: float(stored["tau"]) for name, stored in found.items()},
        chosen_on=chosen_on,
        calibration=flow,
        notes=tuple(_notes(found, settings, task)),
    )


def _notes(found: Mapping[str, Mapping[str, Any]], settings: Settings, task: str) -> list[str]:
    notes = []
    for stored in found.values():
        made_from = stored["from"]
        if made_from["data"]["task"] != task:
            notes.append(f"tau was chosen on another task, {made_from['data']['task']}")
        used, now = made_from["method"], settings.method.deciding()
        other = [name for name in _OF_CORRUPTION if name in used and used[name] != now[name]]
        if other:
            notes.append(f"tau was chosen with {', '.join(f'{name} {used[name]}' for name in other)}")
    return notes
