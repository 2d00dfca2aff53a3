"""The functions of ``import dpc``: for notebooks and scripts, the same code as the command line's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from dpc.engine import Decoder, Request
from dpc.errors import UserError
from dpc.flow.saliency import prompt_saliency
from dpc.methods import METHODS, get_method
from dpc.methods.method import Method
from dpc.model.adapter_folder import adapter_folder
from dpc.model.lm import FrozenLM
from dpc.model.loading import load_lm, without_bars
from dpc.model.notices import notices
from dpc.model.wrap import wrap_model
from dpc.prompt.asked import asked_with
from dpc.prompt.soft_prompt import SoftPrompt, load_adapter, prompt_of
from dpc.records.directory import RunDirectory
from dpc.records.results import Results
from dpc.report import write_page
from dpc.report.notebook import results_html, results_text
from dpc.run.data import Data, load_shots
from dpc.run.generate import answer_questions
from dpc.run.reporter import SILENT, Reporter
from dpc.run.session import Session, TracedQuestion
from dpc.run.setup import calibration_file, check_width, load_setup, refuse_to_shrink
from dpc.run.stages import calibrate_method, evaluate_methods, threshold_text, tune_prompt
from dpc.run.ways import asked_by, how_asked
from dpc.settings import Settings, parse_settings
from dpc.tasks import Task, get_task
from dpc.types import Answer, Example
from dpc.zoo import SETTINGS

if TYPE_CHECKING:
    import xarray as xr
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


Choices = Settings | Mapping[str, Any] | None
"""Settings: ``{"method.gamma": 20}``; None for the defaults. docs/configuration.md lists every one."""


def load_model(
    model: str | Path | FrozenLM | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantize: str | None = None,
    adapter: str | Path | None = None,
) -> FrozenLM:
    """A frozen causal language model: ``zoo`` (ships with dpc), a hub id, a folder, a GGUF file, or a model object.

    tokenizer: needed with a model object. That object is put into evaluation mode, and its parameters are frozen.
    dtype: float32, bfloat16, float16, float64 or auto (the checkpoint's own on a GPU, float32 on a CPU). device: cpu,
    cuda, cuda:1 or auto. quantize: 4bit, for linear layers in 4 bits of bitsandbytes. adapter: folder or hub id of a
    PEFT adapter for the model's layers (LoRA ...), under any soft prompt; it stays unmerged. A model object brings its
    own.
    Warns of what its user may not expect: a context that is shortened, generation settings that are not used, an
    adapter that was trained on another model.
    Raises ``UserError`` for a model that is not there, not whole, or cannot be decoded exactly.
    """
    if adapter is not None and not isinstance(model, str | Path):
        raise UserError(f"load_model: adapter={str(adapter)!r} needs a model's name; a model object brings its adapter")
    if isinstance(model, FrozenLM):
        return model
    if isinstance(model, str | Path):
        with without_bars():
            lm = load_lm(
                str(model),
                dtype=dtype,
                device=device,
                revision=revision,
                trust_remote_code=trust_remote_code,
                quantize=quantize,
                adapter=None if adapter is None else str(adapter),
            )
    elif tokenizer is None:
        raise UserError("load_model: a model object needs its tokenizer: load_model(model, tokenizer)")
    else:
        lm = wrap_model(model, tokenizer)
    for notice in notices(lm):
        warnings.warn(notice, stacklevel=2)
    return lm


def load_prompt(lm: FrozenLM, prompt: str | Path | SoftPrompt | PeftModel) -> SoftPrompt:
    """A soft prompt: from a PEFT adapter in a folder or on the hub (``owner/name``), or from a ``PeftModel`` with one.

    docs/adapters.md lists the kinds of adapters. Raises ``UserError`` for another kind, or a prompt for another model.
    """
    if isinstance(prompt, str | Path):
        return load_adapter(lm, _folder(prompt))
    found = prompt if isinstance(prompt, SoftPrompt) else prompt_of(prompt)
    check_width(lm, found)
    return found


def tune(
    lm: FrozenLM,
    task: str | Task,
    output: str | Path,
    *,
    data: str | None = None,
    settings: Choices = None,
    progress: Reporter = SILENT,
) -> SoftPrompt:
    """Tune a soft prompt on the task's train split; the best on its dev split is written to ``output`` (PEFT adapter).

    The same call goes on where an earlier one was interrupted. Raises ``UserError`` for rows that cannot be read or do
    not fit the model's context, or where ``output`` was begun from something else.
    """
    chosen = _settings(lm, settings)
    train, dev = _data(task, "train", data, chosen), _data(task, "dev", data, chosen)
    with RunDirectory(Path(output)).lock():
        tune_prompt(lm, train, dev, chosen, Path(output), resume=True, report=progress)
    return load_adapter(lm, Path(output))


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A threshold, chosen on ``n`` rows. curve: accuracy and trigger rate at every candidate."""

    tau: float
    n: int
    curve: list[dict[str, float]]

    def __repr__(self) -> str:
        chosen = next(point for point in self.curve if point["tau"] == self.tau)
        return f"Calibrated({threshold_text(self.tau)}, trigger rate {chosen['trigger_rate']:.1%}, n={self.n})"


def calibrate(
    lm: FrozenLM,
    task: str | Task,
    *,
    prompt: str | Path,
    method: str | Method = "dpc",
    data: str | None = None,
    split: str = "dev",
    limit: int | None = None,
    force: bool = False,
    settings: Choices = None,
    progress: Reporter = SILENT,
) -> Calibrated:
    """Choose the threshold of a method's trigger on a split, and store it in the folder ``prompt``.

    force: replace a calibration that was made on more rows. Raises ``UserError`` for the test split, a method without a
    threshold, or, without ``force``, fewer rows than those of the stored calibration.
    """
    if split == "test":
        raise UserError("split='test': a threshold that is chosen on test rows spoils the test; expected dev or train")
    chosen, folder, value = _settings(lm, settings), Path(prompt), _method(method)
    rows, soft_prompt, run = _data(task, split, data, chosen, limit), load_adapter(lm, folder), RunDirectory(folder)
    if not force and value.calibrated is not None:
        refuse_to_shrink(folder / calibration_file(value.calibrated), len(rows.examples))
    with run.lock():
        stored = calibrate_method(lm, soft_prompt, folder, rows, chosen, run, value, progress)
    return Calibrated(float(stored["tau"]), int(stored["n"]), stored["curve"])


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results of methods on a split. run: the folder with records, ``results.json`` and the page."""

    results: Results
    run: Path

    def __repr__(self) -> str:
        return results_text(self.results)

    def _repr_html_(self) -> str:
        return results_html(self.results)


def evaluate(
    lm: FrozenLM,
    task: str | Task,
    methods: Sequence[str | Method] = ("prompt_tuning", "dpc"),
    *,
    prompt: str | Path | SoftPrompt | PeftModel | None = None,
    output: str | Path,
    data: str | None = None,
    split: str = "test",
    limit: int | None = None,
    tau: float | None = None,
    other_prompts: Sequence[str | Path | SoftPrompt | PeftModel] = (),
    settings: Choices = None,
    progress: Reporter = SILENT,
) -> Evaluation:
    """Answer and grade a split with every method; records, results and the page are written to ``output``.

    tau: None for the thresholds that were calibrated for the prompt. other_prompts: further ones, for methods that use
    several. The same call goes on where an earlier one was
    interrupted. Raises ``UserError`` where a method lacks what it needs, or ``output`` was begun from something else.
    """
    chosen, values = (
        _settings(lm, settings),
        [_method(m) for m in ([methods] if isinstance(methods, str | Method) else methods)],
    )
    rows = _data(task, split, data, chosen, limit)
    shots = load_shots(rows.task, data, chosen.task, rows)
    others = [found for each in other_prompts if (found := _prompt(lm, each)) is not None]
    threshold, name = _check_tau(tau), rows.task.name
    setup = load_setup(lm, _prompt(lm, prompt), values, chosen, task=name, tau=threshold, shots=shots, others=others)
    run = RunDirectory(Path(output))
    with run.lock():
        results = evaluate_methods(lm, setup, rows, values, chosen, run, progress)
        write_page(run.path)
    return Evaluation(results, run.path)


@overload
def generate(  # type: ignore[overload-overlap]
    lm: FrozenLM,
    questions: str,
    *,
    prompt: str | Path | SoftPrompt | PeftModel | None = ...,
    method: str | Method = ...,
    tau: float | None = ...,
    task: str | Task = ...,
    data: str | None = ...,
    settings: Choices = ...,
) -> Answer: ...
@overload
def generate(
    lm: FrozenLM,
    questions: Sequence[str],
    *,
    prompt: str | Path | SoftPrompt | PeftModel | None = ...,
    method: str | Method = ...,
    tau: float | None = ...,
    task: str | Task = ...,
    data: str | None = ...,
    settings: Choices = ...,
) -> list[Answer]: ...
def generate(
    lm: FrozenLM,
    questions: str | Sequence[str],
    *,
    prompt: str | Path | SoftPrompt | PeftModel | None = None,
    method: str | Method = "dpc",
    tau: float | None = None,
    task: str | Task = "zoo",
    data: str | None = None,
    settings: Choices = None,
) -> Answer | list[Answer]:
    """Answer one question, or several, with a method; an answer has ``text``, ``decision`` and both passes.

    prompt: None only for the method ``pretrained``. tau: None for the calibrated threshold. task: writes the question
    as the prompt was tuned on it. data: source of the task's train split, for ``task.shots``. Raises ``UserError``
    where the method lacks what it needs.
    """
    chosen, value, known = _settings(lm, settings), _method(method), _task(task)
    several = isinstance(questions, list | tuple)
    texts = [_question(text) for text in (questions if several else [questions])]
    examples = [Example(str(number), text, "") for number, text in enumerate(texts, 1)]
    shots = load_shots(known, data, chosen.task)
    setup = load_setup(lm, _prompt(lm, prompt), [value], chosen, task=known.name, tau=_check_tau(tau), shots=shots)
    lm = asked_by(lm, setup, [value], chosen.task)[how_asked(value)]
    found = dict(answer_questions(lm, known, examples, value, setup, chosen))
    return found[0] if isinstance(questions, str) else [found[index] for index in range(len(texts))]


def trace(
    lm: FrozenLM,
    question: str,
    *,
    prompt: str | Path | SoftPrompt | PeftModel,
    method: str | Method = "dpc",
    tau: float | None = None,
    token: int | None = None,
    task: str | Task = "zoo",
    settings: Choices = None,
) -> TracedQuestion:
    """Trace one question through a method of two passes: both answers, the decision, the saliency of every layer.

    token: the virtual token to mask, None for the method's own choice. In a notebook the result shows its page.
    Raises ``UserError`` for a method of one pass, or where there is no threshold.
    """
    found = _prompt(lm, prompt)
    assert found is not None
    return Session(lm, _task(task), found, _settings(lm, settings), _method(method), _check_tau(tau)).trace(
        _question(question), token=token
    )


def saliency(
    lm: FrozenLM,
    question: str,
    *,
    prompt: str | Path | SoftPrompt | PeftModel,
    rationale: str | None = None,
    layers: Sequence[int] | None = None,
    task: str | Task = "zoo",
    settings: Choices = None,
) -> xr.DataArray:
    """Saliency (Eq 1) of the soft prompt in one instance, as an array with the axes layer, position, virtual_token.

    rationale: None for the model's own greedy answer. Positions are those of question and rationale; the coordinate
    ``token`` is their text, ``part`` is question or rationale. ``attrs``: the rationale's loss in nats per token, and
    the head reduction. Raises ``UserError`` for an empty rationale, or a model whose attention cannot be reproduced.
    """
    import xarray as xr

    chosen, known = _settings(lm, settings), _task(task)
    folder = _prompt(lm, prompt)
    soft_prompt = load_adapter(lm, folder) if isinstance(folder, Path) else folder
    assert soft_prompt is not None
    lm = asked_with(lm, soft_prompt, chosen.task.chat)
    asked = lm.encode(known.prompt(Example("1", _question(question), "")))
    if rationale is None:
        limit = chosen.decoding.max_new_tokens or known.max_new_tokens
        [answer] = Decoder(lm, chosen.decoding).all([Request(asked, soft_prompt)], limit)
        written: Sequence[int] = answer.ids
    else:
        written = lm.encode_continuation(rationale)
    reduction = chosen.method.head_reduction
    [found] = prompt_saliency(lm, soft_prompt.vectors, [asked], [written], layers, reduction)
    return xr.DataArray(
        found.scores.cpu().numpy(),
        dims=("layer", "position", "virtual_token"),
        coords={
            "layer": list(found.layers),
            "position": range(len(asked) + len(written)),
            "virtual_token": range(len(soft_prompt.vectors)),
            "token": ("position", lm.token_texts([*asked, *written])),
            "part": ("position", ["question"] * len(asked) + ["rationale"] * len(written)),
        },
        name="saliency",
        attrs={"loss": found.loss, "head_reduction": reduction},
    )


def _settings(lm: FrozenLM, given: Choices) -> Settings:
    if not isinstance(lm, FrozenLM):
        raise UserError(f"lm: got {type(lm).__name__}, expected a model from dpc.load_model")
    if isinstance(given, Settings):
        return given
    flat: dict[str, Any] = {}
    for name, value in (given or {}).items():
        group = {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, Mapping) else {name: value}
        flat |= group
    texts = [f"{name}={value}" for name, value in flat.items()]
    return parse_settings(texts, SETTINGS if lm.name == "zoo" else {})


def _task(task: str | Task) -> Task:
    return task if isinstance(task, Task) else get_task(task)


def _method(method: str | Method) -> Method:
    if not isinstance(method, Method):
        return get_method(method)
    if method.name in METHODS and method != get_method(method.name):
        raise UserError(f"method {method.name}: has the name of one that ships with dpc; choose another name")
    return method


def _question(text: object) -> str:
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"question: got {text!r}, expected some text")
    return text


def _check_tau(tau: float | None) -> float | None:
    if tau is not None and not (isinstance(tau, int | float) and math.isfinite(tau)):
        raise UserError(f"tau: got {tau!r}, expected a number")
    return tau


def _data(task: str | Task, split: str, source: str | None, settings: Settings, limit: int | None = None) -> Data:
    if limit is not None and limit < 1:
        raise UserError(f"limit: got {limit}, expected a number of rows of at least 1")
    return Data.load(_task(task), split, source, limit, settings.task)


def _folder(prompt: str | Path) -> Path:
    return adapter_folder(prompt, f"prompt '{prompt}'")


def _prompt(lm: FrozenLM, prompt: str | Path | SoftPrompt | PeftModel | None) -> Path | SoftPrompt | None:
    if prompt is None or isinstance(prompt, SoftPrompt):
        return prompt
    if isinstance(prompt, str | Path):
        return _folder(prompt)
    return load_prompt(lm, prompt)
