"""The stages of a run, each resumable on its own: tune, calibrate, evaluate, trace, and all of them in a row."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dpc.engine import Decoder, Request
from dpc.errors import UserError
from dpc.files import read_json, write_json
from dpc.flow.trigger import ALWAYS
from dpc.methods import BASELINE, METHODS, build_method, check_methods, use_calibration
from dpc.methods.base import Setup
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt, load_adapter
from dpc.prompt.tuning import TuningProgress, tune
from dpc.records.directory import RunDirectory, source_state, versions
from dpc.records.results import summarize, threshold_curve
from dpc.run.evaluate import Progress, calibrate_records, evaluate
from dpc.settings import Settings, TaskSettings
from dpc.tasks import Task, data_sha256
from dpc.types import Example, Record

CALIBRATION = "calibration.json"
# What was chosen before an evaluation, and only some methods need.
CHOSEN = ("prompt_sha256", "tau", "trigger_rate", "act_sha256")
Report = Callable[[str, Progress], None]


@dataclass(frozen=True, slots=True)
class Data:
    """Rows of one split of a task, and where they came from."""

    task: Task
    split: str
    source: str
    examples: tuple[Example, ...]

    @classmethod
    def load(
        cls,
        task: Task,
        split: str,
        source: str | None,
        limit: int | None = None,
        settings: TaskSettings | None = None,
    ) -> Data:
        """Load the split, or its first ``limit`` rows."""
        examples = task.load(split, source, settings or TaskSettings())
        return cls(task, split, source or task.default_source, tuple(examples[:limit]))

    def describe(self) -> dict[str, Any]:
        """What identifies these rows."""
        return {
            "task": self.task.name,
            "split": self.split,
            "source": self.source,
            "rows": len(self.examples),
            "sha256": data_sha256(self.examples),
        }

    def pairs(self) -> list[tuple[str, str]]:
        """Question and target of each row, as texts, as a prompt is tuned on them."""
        return [(self.task.prompt(example), self.task.target(example)) for example in self.examples]


def init_text(train: Data, dev: Data, settings: Settings) -> str | None:
    """Question and target of the example that init ``text`` starts from; None where that is the first train row.

    Raises ``UserError`` where ``tuning.init_question`` is set and no row's question begins so.
    """
    beginning = settings.tuning.init_question
    if beginning is None or settings.tuning.init != "text":
        return None
    for part in (train, dev):
        for example, pair in zip(part.examples, part.pairs(), strict=True):
            if example.question.startswith(beginning):
                return "".join(pair)
    raise UserError(
        f"tuning.init_question: no question among {train.source}'s train and dev rows begins with {beginning!r}; "
        "give another beginning, or none for the first train row"
    )


def row_keys(data: Data) -> dict[str, str]:
    """A short digest of each row's question and answer, with the row's id: what splits must not share."""
    texts = {example.id: json.dumps([example.question, example.answer]) for example in data.examples}
    return {hashlib.sha256(text.encode()).hexdigest()[:16]: name for name, text in texts.items()}


def refuse_shared_rows(data: Data, others: Collection[str], used_for: str) -> None:
    """Raise ``UserError`` where a row of ``data`` is among ``others`` (keys): a figure on it would be no test."""
    shared = [name for key, name in row_keys(data).items() if key in others]
    if shared:
        raise UserError(
            f"{data.source} {data.split}: {len(shared)} of its rows, first {shared[0]}, were used to {used_for}; "
            "evaluate on other rows"
        )


def describe_model(lm: FrozenLM) -> dict[str, Any]:
    """What identifies a model."""
    return {"name": lm.name, "revision": lm.revision, "dtype": str(lm.dtype).removeprefix("torch.")}


def tuning_inputs(lm: FrozenLM, train: Data, dev: Data, settings: Settings) -> dict[str, Any]:
    """What a tuned prompt follows from."""
    return {
        "model": describe_model(lm),
        "train": train.describe(),
        "dev": dev.describe(),
        "tuning": settings.tuning.model_dump(),
        "max_new_tokens": settings.decoding.max_new_tokens or dev.task.max_new_tokens,
    }


def calibration_inputs(lm: FrozenLM, prompt_sha256: str, data: Data, settings: Settings) -> dict[str, Any]:
    """What a calibrated threshold follows from."""
    return {
        "model": describe_model(lm),
        "prompt_sha256": prompt_sha256,
        "data": data.describe(),
        "method": settings.method.deciding(),
        "decoding": settings.decoding.model_dump(),
    }


def evaluation_inputs(lm: FrozenLM, setup: Setup, data: Data, settings: Settings) -> dict[str, Any]:
    """What the records of an evaluation follow from; ``CHOSEN`` are None where no method needed them yet."""
    act = None if setup.act_heads is None else {"heads": setup.act_heads, **setup.act.model_dump()}
    return {
        "model": describe_model(lm),
        "prompt_sha256": setup.soft_prompt.sha256 if setup.soft_prompt else None,
        "tau": setup.tau,
        "trigger_rate": setup.trigger_rate,
        "act_sha256": None if act is None else hashlib.sha256(json.dumps(act).encode()).hexdigest(),
        "data": data.describe(),
        "method": settings.method.model_dump(),
        "decoding": settings.decoding.model_dump(),
    }


def accuracy_of(lm: FrozenLM, data: Data, settings: Settings) -> Callable[[SoftPrompt], float]:
    """A function that measures the share of ``data`` a soft prompt answers, for choosing the best while tuning."""
    questions = [lm.encode(data.task.prompt(example)) for example in data.examples]
    room, decoder = settings.decoding.max_new_tokens or data.task.max_new_tokens, Decoder(lm, settings.decoding)

    def measure(prompt: SoftPrompt) -> float:
        answers = decoder.all([Request(question, prompt) for question in questions], room)
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
    progress: Callable[[TuningProgress], None] | None = None,
) -> SoftPrompt:
    """Tune a prompt on ``train``, keep the best on ``dev``, and leave a PEFT adapter in ``output``."""
    checked = replace(dev, examples=dev.examples[: settings.tuning.dev_limit])
    rows = [part.pairs() for part in (train, checked)]
    return tune(
        lm,
        rows[0],
        rows[1],
        settings.tuning,
        output,
        dev_accuracy=accuracy_of(lm, checked, settings),
        resume=resume,
        progress=progress,
        init_text=init_text(train, dev, settings),
        provenance={"train": train.describe(), "dev": checked.describe()},
    )


def calibrate_prompt(
    lm: FrozenLM,
    prompt: SoftPrompt,
    data: Data,
    settings: Settings,
    run: RunDirectory,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Answer ``data`` twice each and choose tau by accuracy; what is returned also says what it was chosen on."""
    made_from = calibration_inputs(lm, prompt.sha256, data, settings)
    run.restart("calibrate", made_from, run.records("calibration"))
    records = evaluate(
        Decoder(lm, settings.decoding),
        data.task,
        data.examples,
        "dpc",
        Setup(prompt, ALWAYS, settings.method),
        run.records("calibration"),
        (lambda p: progress("calibrate", p)) if progress else None,
    )
    chosen = calibrate_records(records)
    stored = {
        "format": 1,
        "tau": chosen.tau,
        "n": len(records),
        "curve": [{"tau": p.tau, "accuracy": p.accuracy, "trigger_rate": p.trigger_rate} for p in chosen.curve],
        "from": made_from,
        "rows": sorted(row_keys(data)),
        "versions": versions(),
        "source": source_state(),
    }
    return stored


def load_calibration(directory: Path, prompt: SoftPrompt, settings: Settings) -> dict[str, Any] | None:
    """The calibration beside an adapter; None where there is none.

    Raises ``UserError`` where it was made for another prompt or with other settings of the method.
    """
    path = directory / CALIBRATION
    if not path.exists():
        return None
    stored: dict[str, Any] = read_json(path, "calibration")
    try:
        made_from, tau = stored["from"], float(stored["tau"])
        same = made_from["prompt_sha256"] == prompt.sha256 and made_from["method"] == settings.method.deciding()
        whole = math.isfinite(tau) and {"rows", "n"} <= stored.keys() and "task" in made_from["data"]
        whole = whole and tau in [point["tau"] for point in stored["curve"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is not a calibration; run `dpc calibrate` again") from error
    if not whole:
        raise UserError(f"{path}: is not a whole calibration; run `dpc calibrate` again")
    if not same:
        raise UserError(f"{path}: tau {tau} was chosen for another prompt or other settings; run `dpc calibrate` again")
    return stored


def trigger_rate(calibration: Mapping[str, Any]) -> float:
    """The share of the calibration's rows on which the chosen threshold fires."""
    return next(float(p["trigger_rate"]) for p in calibration["curve"] if p["tau"] == calibration["tau"])


def method_setup(
    prompt: SoftPrompt | None,
    calibration: Mapping[str, Any] | None,
    act: Mapping[str, Any] | None,
    settings: Settings,
    tau: float | None = None,
) -> Setup:
    """What methods are built from, as it was chosen beside the prompt; ``tau`` overrides the calibrated one."""
    known = calibration if tau is None else None
    return Setup(
        soft_prompt=prompt,
        tau=float(known["tau"]) if known else tau,
        settings=settings.method,
        trigger_rate=trigger_rate(known) if known else None,
        act_heads=tuple((int(layer), int(head)) for layer, head in act["heads"]) if act else None,
        act=settings.act,
    )


def evaluate_methods(
    lm: FrozenLM,
    prompt: SoftPrompt | None,
    calibration: Mapping[str, Any] | None,
    data: Data,
    methods: Sequence[str],
    settings: Settings,
    run: RunDirectory,
    *,
    tau: float | None = None,
    act: Mapping[str, Any] | None = None,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Answer ``data`` with every method, and write ``results.json``. ``tau`` overrides the calibrated one.

    act: what ``act_search.load_act`` found beside the prompt, for the method ``act``.
    Raises ``UserError`` where the rows are those that tau or ACT's heads were chosen on: it would be no test.
    """
    check_methods(methods)
    if use_calibration(methods) and tau is None and calibration:
        refuse_shared_rows(data, set(calibration["rows"]), "choose tau")
    if "act" in methods and act:
        refuse_shared_rows(data, set(act["rows"]), "choose ACT's heads")
    setup = method_setup(prompt, calibration, act, settings, tau)
    for name in methods:
        build_method(name, setup)
    run.enter("eval", evaluation_inputs(lm, setup, data, settings), fillable=CHOSEN)
    run.write_examples(data.examples)
    decoder = Decoder(lm, settings.decoding)
    records: dict[str, list[Record]] = {}
    for name in methods:
        step = (lambda p, name=name: progress(name, p)) if progress else None
        records[name] = evaluate(decoder, data.task, data.examples, name, setup, run.records(name), step)
    write_vocabulary(lm, run, (record for made in records.values() for record in made))
    records |= _earlier_records(run, data, methods)
    results = {
        "format": 2,
        "model": lm.name,
        "task": data.task.name,
        "split": data.split,
        "n": len(data.examples),
        "methods": summarize(records, data.examples, data.task.also_graded),
        "calibration": {k: calibration[k] for k in ("tau", "n", "curve", "from")} if calibration else None,
        "test_curve": threshold_curve(records),
        "made_by": {"command": run.command, "versions": versions(), "source": source_state()},
    }
    write_json(run.results, results)
    return results


def write_vocabulary(lm: FrozenLM, run: RunDirectory, records: Iterable[Record]) -> None:
    """Write ``vocabulary.json``: the text of each token that was generated, for readers that load no tokenizer."""
    passes = (each for r in records for each in (r.answer.first, r.answer.second) if each is not None)
    known: dict[str, str] = read_json(run.vocabulary, "vocabulary") if run.vocabulary.exists() else {}
    new = {token for each in passes for token in each.ids} - set(map(int, known))
    write_json(run.vocabulary, known | {str(token): lm.decode([token]) for token in sorted(new)})


def _earlier_records(run: RunDirectory, data: Data, methods: Sequence[str]) -> dict[str, list[Record]]:
    """Records of methods that the same run has evaluated before on all of these rows."""
    found = {}
    for name in METHODS:
        by_id = {} if name in methods else {record.example_id: record for record in run.records(name).read()}
        if by_id and all(example.id in by_id for example in data.examples):
            found[name] = [by_id[example.id] for example in data.examples]
    return found


def needs_prompt(methods: Sequence[str]) -> bool:
    """Whether one of the methods answers with a soft prompt: all but the bare model."""
    return not set(methods) <= {"pretrained"}


def load_prompt(lm: FrozenLM, directory: Path | None, methods: Sequence[str] = (BASELINE,)) -> SoftPrompt | None:
    """The adapter in ``directory``; None where no method needs one. Raises ``UserError`` where one is needed."""
    if directory is not None:
        return load_adapter(lm, directory)
    if not needs_prompt(methods):
        return None
    raise UserError(
        f"methods {', '.join(methods)} need a soft prompt; pass --prompt DIR, a folder made by `dpc tune` or PEFT"
    )
