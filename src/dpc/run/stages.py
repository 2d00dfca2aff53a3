"""The stages of a run: tune a prompt, choose thresholds, answer rows with methods. Each is resumable."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dpc.engine import Decoder, Request
from dpc.errors import UserError
from dpc.files import read_json, write_json
from dpc.flow.thresholds import calibrate
from dpc.methods import build_method, get_method
from dpc.methods.method import Method, Setup
from dpc.methods.triggers import StatisticTrigger
from dpc.model.lm import FrozenLM
from dpc.prompt.asked import asked_alone, asked_with, unrecorded_note
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.prompt.tuning import TuningProgress, tune
from dpc.records.directory import RunDirectory, source_state, versions
from dpc.records.results import Results, write_results
from dpc.records.summary import summarize_run
from dpc.run.data import Data, init_text, refuse_shared_rows, row_keys
from dpc.run.evaluate import evaluate_method
from dpc.run.inputs import CHOSEN, calibration_inputs, evaluation_inputs, own_method_inputs, recorded, with_more_rows
from dpc.run.maps import write_maps
from dpc.run.reporter import SILENT, Progress, Reporter
from dpc.run.setup import calibration_file, calibration_records, calibration_stage
from dpc.run.ways import WITH_PROMPT, asked_by, asking_notes, how_asked
from dpc.settings import Settings
from dpc.types import Record


def accuracy_of(lm: FrozenLM, data: Data, settings: Settings) -> Callable[[SoftPrompt], float]:
    """A function that measures the share of ``data`` that a soft prompt answers correctly."""
    questions = [lm.encode(data.task.prompt(example)) for example in data.examples]
    max_new_tokens = settings.decoding.max_new_tokens or data.task.max_new_tokens
    decoder = Decoder(lm, settings.decoding)

    def measure(prompt: SoftPrompt) -> float:
        answers = decoder.all([Request(question, prompt) for question in questions], max_new_tokens)
        scores = [data.task.score(example, a.text) for example, a in zip(data.examples, answers, strict=True)]
        return sum(score.correct for score in scores) / len(scores)

    return measure


def tune_prompt(
    lm: FrozenLM,
    train: Data,
    dev: Data,
    settings: Settings,
    output: Path,
    *,
    resume: bool = False,
    report: Reporter = SILENT,
) -> SoftPrompt:
    """Tune a prompt on ``train``, keep the best on ``dev``, and write a PEFT adapter into ``output``."""
    lm = asked_alone(lm, settings.task.chat)
    report_format(lm, report)
    checked = replace(dev, examples=dev.examples[: settings.tuning.dev_limit])
    rows = [part.pairs() for part in (train, checked)]
    prompt = tune(
        lm,
        rows[0],
        rows[1],
        settings.tuning,
        output,
        dev_accuracy=accuracy_of(lm, checked, settings),
        resume=resume,
        progress=_tuning_notes(report),
        init_text=init_text(train, dev, settings),
        provenance={"train": train.describe(), "dev": checked.describe()},
    )
    lm.verify_unchanged()
    return prompt


def report_format(lm: FrozenLM, report: Reporter) -> None:
    """Say that questions are put into the chat template, where they are."""
    if lm.asking.format == "chat":
        report.say("questions are put into the model's chat template (task.chat)")


def _tuning_notes(report: Reporter) -> Callable[[TuningProgress], None]:
    dev = ""

    def show(progress: TuningProgress) -> None:
        nonlocal dev
        if progress.dev_accuracy is not None:
            dev = f", dev {progress.dev_accuracy:.1%}"
        note = ""
        if progress.loss is not None:
            note = f"loss {progress.loss:.3f}{dev}, {progress.tokens_per_second:,.0f} tokens/s"
        report.progress(Progress("tune", progress.step, progress.steps, note))

    return show


def calibrated_trigger(method: Method) -> StatisticTrigger:
    """The trigger whose threshold ``dpc calibrate`` chooses. Raises ``UserError`` for a method without one."""
    trigger = method.trigger
    if not isinstance(trigger, StatisticTrigger):
        raise UserError(f"--method {method.name}: has no threshold to choose; expected one with a calibrated trigger")
    if trigger.name == "flow" and method.name != "dpc":
        raise UserError(f"--method {method.name}: uses the threshold that is chosen for dpc; expected dpc")
    return trigger


def calibrate_method(
    lm: FrozenLM,
    prompt: SoftPrompt,
    directory: Path,
    data: Data,
    settings: Settings,
    run: RunDirectory,
    method: Method | None = None,
    report: Reporter = SILENT,
) -> dict[str, Any]:
    """Choose the threshold of a method's trigger on ``data`` and store it in ``directory``, beside the adapter.

    Every row is answered twice, with a trigger that always fires; from these records the accuracy of every threshold
    follows. method: None for ``dpc``. Returns what is stored: the threshold, all candidates, what they were made from.
    Raises ``UserError`` for a method whose trigger has no threshold to choose.
    """
    method = get_method("dpc") if method is None else method
    if note := unrecorded_note(lm, prompt, settings.task.chat):
        report.say(f"note: {note}")
    lm = asked_with(lm, prompt, settings.task.chat)
    trigger = calibrated_trigger(method)
    stage, file = calibration_stage(trigger.name), run.records(calibration_records(trigger.name))
    made_from = calibration_inputs(lm, prompt.sha256, data, settings, method)
    run.restart(stage, made_from, file, recorded=recorded(settings))
    setup = Setup(prompt, trigger.bounds[0], settings.method)
    decoder = Decoder(lm, settings.decoding)
    records = evaluate_method(decoder, data.task, data.examples, method, setup, file, report, stage="calibrate")
    lm.verify_unchanged()
    decisions = [record.answer.decision for record in records]
    chosen = calibrate(
        [None if decision is None else decision.statistic for decision in decisions],
        [record.score_first.correct for record in records],
        [record.score_final.correct for record in records],
        trigger.bounds,
        trigger.rule,
    )
    stored = {
        "format": 1,
        "trigger": trigger.name,
        "tau": chosen.tau,
        "n": len(records),
        "curve": [asdict(point) for point in chosen.curve],
        "from": made_from,
        "rows": sorted(row_keys(data)),
        "versions": versions(),
        "source": source_state(),
    }
    write_json(directory / calibration_file(trigger.name), stored)
    report.say(_calibration_in_words(stored, data, trigger))
    return stored


def threshold_text(tau: float) -> str:
    """``tau = 0.25``, or in words where no number of a statistic without bounds is meant."""
    if abs(tau) == sys.float_info.max:
        return "never triggers" if tau > 0 else "always triggers"
    return f"tau = {tau:.4g}"


def _calibration_in_words(stored: dict[str, Any], data: Data, trigger: StatisticTrigger) -> str:
    best = max(point["accuracy"] for point in stored["curve"])
    never = stored["curve"][-1]["accuracy"]
    what = "" if trigger.name == "flow" else f"{trigger.name}: "
    text = (
        f"{what}{threshold_text(stored['tau'])}, chosen on {stored['n']} rows of {data.split}: "
        f"accuracy {best:.1%} there, {never:.1%} without a second pass"
    )
    if never in (0.0, 1.0):
        state = "right" if never else "wrong"
        text += f"\nnote: every first answer is {state}: the trigger can't be measured as a detector of wrong answers"
    return text


def evaluate_methods(
    lm: FrozenLM,
    setup: Setup,
    data: Data,
    methods: Sequence[Method],
    settings: Settings,
    run: RunDirectory,
    report: Reporter = SILENT,
) -> Results:
    """Answer and grade ``data`` with every method; write records, ``results.json``, vocabulary and flow maps.

    setup: as ``load_setup`` gives it. Raises ``UserError`` where a method lacks what it needs, where the rows are those
    that a threshold or ACT's heads were chosen on, where ``run`` was begun from something else, or where the model's
    files changed meanwhile.
    """
    for used_for, rows in setup.chosen_on.items():
        refuse_shared_rows(data, rows, used_for)
    for method in methods:
        build_method(method, setup)
    asked = asked_by(lm, setup, methods, settings.task)
    for note in (*setup.notes, *asking_notes(lm, setup, data, asked, settings.task)):
        report.say(f"note: {note}")
    made_from = evaluation_inputs(lm, setup, data, settings, asked)
    run.amend("eval", lambda known: with_more_rows(known, data))
    run.enter("eval", made_from, fillable=CHOSEN, recorded=recorded(settings))
    for method in methods:
        # DPC's own threshold is among the inputs of every evaluation.
        if method.source or method.calibrated not in (None, "flow"):
            run.enter(f"method_{method.name}", own_method_inputs(method, setup))
    run.write_examples(data.examples)
    decoder, records = None, {}
    for method in methods:
        as_asked = asked[how_asked(method)]
        if decoder is None or decoder.lm.asking != as_asked.asking:
            decoder = Decoder(as_asked, settings.decoding)
        file = run.records(method.name)
        records[method.name] = evaluate_method(decoder, data.task, data.examples, method, setup, file, report)
    lm.verify_unchanged()
    write_vocabulary(lm, run, (record for made in records.values() for record in made))
    _write_maps(asked.get(WITH_PROMPT, lm), setup, data, methods, records, run)
    records |= _earlier_records(run, data, records)
    results = summarize_run(
        records,
        data.examples,
        data.task.also_graded,
        model=lm.title,
        task=data.task.name,
        split=data.split,
        calibration=setup.calibration,
        made_by={"command": run.command, "versions": versions(), "source": source_state()},
    )
    write_results(run.results, results)
    return results


def _write_maps(
    lm: FrozenLM,
    setup: Setup,
    data: Data,
    methods: Sequence[Method],
    records: dict[str, list[Record]],
    run: RunDirectory,
) -> None:
    """Flow maps of a few instances of the method whose instances the page shows: DPC, or the first of two passes."""
    deciding = [method.name for method in methods if method.passes == 2]
    shown = "dpc" if "dpc" in deciding else next(iter(deciding), None)
    if shown is not None and setup.soft_prompt is not None:
        folder = run.path / "maps"
        write_maps(lm, setup.soft_prompt, data.task, data.examples, records[shown], setup.settings, folder)


def write_vocabulary(lm: FrozenLM, run: RunDirectory, records: Iterable[Record]) -> None:
    """Write ``vocabulary.json``: the text of each generated token, for readers that load no tokenizer."""
    passes = (each for r in records for each in (r.answer.first, r.answer.second) if each is not None)
    known: dict[str, str] = read_json(run.vocabulary, "vocabulary") if run.vocabulary.exists() else {}
    new = {token for each in passes for token in each.ids} - set(map(int, known))
    write_json(run.vocabulary, known | {str(token): lm.decode([token]) for token in sorted(new)})


def _earlier_records(run: RunDirectory, data: Data, now: dict[str, list[Record]]) -> dict[str, list[Record]]:
    """Records of methods that the same run has evaluated before on all of these rows."""
    found = {}
    for name in run.methods():
        by_id = {} if name in now else {record.example_id: record for record in run.records(name).read()}
        if by_id and all(example.id in by_id for example in data.examples):
            found[name] = [by_id[example.id] for example in data.examples]
    return found
