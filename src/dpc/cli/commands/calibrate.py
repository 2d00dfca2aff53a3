"""``dpc calibrate``: the threshold of a trigger, or ACT's heads, chosen on the dev split."""

from __future__ import annotations

from typing import Annotated

import typer

from dpc.cli.options import (
    Adapter,
    Device,
    Dtype,
    Limit,
    Model,
    OwnPrompt,
    Quantize,
    Revision,
    Set,
    Source,
    TaskName,
    Threads,
    TrustRemoteCode,
    check_model,
    load_data,
    load_model,
    own_prompt_folder,
    settings_for,
)
from dpc.errors import UserError


def calibrate(
    prompt: OwnPrompt,
    model: Model = "zoo",
    revision: Revision = None,
    adapter: Adapter = None,
    task: TaskName = "zoo",
    data: Source = None,
    split: Annotated[str, typer.Option(help="Split to choose on.")] = "dev",
    method: Annotated[
        str, typer.Option(help="dpc, or FILE.py:METHOD: the trigger's threshold; act: the heads to calibrate.")
    ] = "dpc",
    limit: Limit = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a calibration that was made on more rows.")] = False,
    settings: Set = None,
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    device: Device = "auto",
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Choose a trigger's threshold, or ACT's heads, on the dev split, and store it beside the adapter."""
    if split == "test":
        raise UserError(f"--split test: what {method} chooses on test rows spoils the test; expected dev or train")
    check_model(model, revision, adapter)
    prompt = own_prompt_folder(prompt)
    chosen = settings_for(model, settings)
    rows = load_data(task, split, data, chosen, limit)
    from dpc.cli.progress import command_line, terminal
    from dpc.methods import get_method
    from dpc.records.directory import RunDirectory
    from dpc.run.act_search import ACT, search_heads
    from dpc.run.setup import calibration_file, load_prompt, refuse_to_shrink
    from dpc.run.stages import calibrate_method, calibrated_trigger

    value = get_method(method)
    heads = "act_heads" in value.requires
    if not heads:
        calibrated_trigger(value)
    count = min(len(rows.examples), chosen.act.rows) if heads else len(rows.examples)
    if not force:
        refuse_to_shrink(prompt / (ACT if heads else calibration_file(value.calibrated or "flow")), count)
    run = RunDirectory(prompt, command_line())
    with run.lock(), terminal() as report:
        lm = load_model(model, dtype, device, revision, trust_remote_code, threads, quantize, adapter)
        soft_prompt = load_prompt(lm, prompt, [value])
        assert soft_prompt is not None
        if heads:
            search_heads(lm, soft_prompt, prompt, rows, chosen, run, report)
        else:
            calibrate_method(lm, soft_prompt, prompt, rows, chosen, run, value, report)
