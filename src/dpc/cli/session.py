"""A model with its soft prompt, ready to be asked: what ``dpc trace`` and ``dpc lab`` do with a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpc.cli.questions import check_text
from dpc.engine import Request, check_fits
from dpc.errors import UserError
from dpc.files import read_json
from dpc.flow.flow_map import map_arrays
from dpc.flow.measures import prompt_to_question, prompt_to_rationale
from dpc.methods.trace import Trace, Tracer
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.records.directory import versions
from dpc.report.flow_data import Flow
from dpc.report.page_data import Instance, Pass
from dpc.run.stages import CALIBRATION, load_calibration, load_prompt
from dpc.settings import MethodSettings, Settings
from dpc.tasks import Task
from dpc.types import Example, Generation, Score

# What R, and with it the meaning of tau, does not depend on: here it may be changed without another calibration.
_OF_CORRUPTION = ("gamma", "prune_scope", "mask_key")


class Session:
    """Answers and traces questions. ``tau`` is the threshold given, else the calibrated one, else None.

    given: whether it was. note: what a user should know about that threshold, empty where there is nothing.
    Raises ``UserError`` for a folder without a prompt, or with a calibration that is not for it.
    """

    def __init__(self, lm: FrozenLM, task: Task, prompt_directory: Path, tau: float | None, settings: Settings) -> None:
        prompt = load_prompt(lm, prompt_directory)
        assert prompt is not None
        self.lm, self.task, self.prompt, self.settings = lm, task, prompt, settings
        self.given = tau is not None
        self.tau, self.note = (tau, "") if tau is not None else calibrated_tau(prompt_directory, prompt, settings)
        self._tracer = Tracer(lm, prompt, settings, settings.decoding.max_new_tokens or task.max_new_tokens)

    def trace(self, question: str, tau: float, gamma: float | None = None, token: int | None = None) -> Trace:
        """Trace a question as it was typed. Raises ``UserError`` for one that is empty, no text, or too long."""
        if not question.strip():
            raise UserError("the question is empty; expected some text")
        check_text(question, "question")
        ids = self.lm.encode(self.task.prompt(_example(question)))
        check_fits(self.lm, Request(ids, self.prompt), "question")
        return self._tracer.trace(ids, tau, gamma, token)

    def score(self, question: str, generation: Generation) -> Score:
        """The answer found in a generation. Nobody knows whether it is right: there is no gold answer."""
        return self.task.score(_example(question), generation.text)

    def instance(self, question: str, trace: Trace) -> Instance:
        """What a page shows of a trace."""
        look, texts = trace.look, self.token_texts(trace)
        first, second = look.first.generation, trace.again.second.generation
        return Instance(
            example=_example(question),
            first=Pass(first, self.score(question, first), tuple(texts[len(look.question) :])),
            second=Pass(second, self.score(question, second)),
            decision=trace.decision,
            flow=_flow(map_arrays(look.flow, texts)) if look.flow is not None else None,
        )

    @property
    def subject(self) -> dict[str, str]:
        """What is looked at, for a page: name and value."""
        prompt = f"{len(self.prompt.vectors)} tokens, sha256 {self.prompt.sha256[:12]}"
        return {"model": self.lm.name, "task": self.task.name, "soft prompt": prompt}

    def facts(self, gamma: float, tau: float) -> dict[str, str]:
        """How a page was made: name and value."""
        method = self.settings.method
        return self.subject | {
            "threshold": f"{tau:.4g}" + (f" ({self.note})" if self.note else ""),
            "corruption": f"gamma {gamma:g} percent a {method.prune_scope}",
            "saliency": f"{method.head_reduction}, shallow layers from {method.shallow_start:.4g} to "
            f"{method.shallow_stop:.4g} of the depth",
            "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        }

    def token_texts(self, trace: Trace) -> list[str]:
        """The text of each token of question and first rationale."""
        return self.lm.token_texts([*trace.look.question, *trace.look.first.generation.ids])

    def summary(self, question: str, trace: Trace) -> dict[str, Any]:
        """The numbers of a trace, as JSON; ``s_i``, ``S_acc`` and beta are under ``decision``, times in seconds."""
        look, again, texts = trace.look, trace.again, self.token_texts(trace)
        first, second = (
            {"text": g.text, "answer": self.score(question, g).extracted, "finish": g.finish, "ids": list(g.ids)}
            for g in (look.first.generation, again.second.generation)
        )
        decision = trace.decision
        return {
            "question": question,
            "model": self.lm.name,
            "prompt_sha256": self.prompt.sha256,
            "method": self.settings.method.model_copy(update={"gamma": again.gamma}).model_dump(),
            "answer": (second if decision.triggered else first)["answer"],
            "first": first | {"tokens": texts[len(look.question) :]},
            "second": second | {"counts": decision.triggered},
            "decision": {
                "triggered": decision.triggered,
                "R": decision.ratio,
                "tau": decision.threshold,
                "masked_token": decision.key_token,
                **decision.evidence,
            },
            "prompt_to_question": prompt_to_question(look.saliency).tolist() if look.question else [],
            "prompt_to_rationale": prompt_to_rationale(look.saliency).tolist(),
            "seconds": {"first": look.first.seconds, "saliency": look.seconds, "second": again.second.seconds},
        }


def calibrated_tau(directory: Path, prompt: SoftPrompt, settings: Settings) -> tuple[float | None, str]:
    """The threshold beside the adapter, None where there is none; and what differs from what it was chosen with.

    Another corruption than the calibrated one is allowed, since the trigger comes before it, and noted.
    Raises ``UserError`` for a calibration that is damaged, or for another prompt or trigger.
    """
    path = directory / CALIBRATION
    if not path.exists():
        return None, ""
    stored = read_json(path, "calibration")
    try:
        chosen_with = {name: stored["from"]["method"][name] for name in _OF_CORRUPTION}
        method = MethodSettings.model_validate(settings.method.model_dump() | chosen_with)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is not a calibration; run `dpc calibrate` again") from error
    calibration = load_calibration(directory, prompt, settings.model_copy(update={"method": method}))
    assert calibration is not None
    other = [name for name, value in chosen_with.items() if value != getattr(settings.method, name)]
    differing = ", ".join(f"{name} {chosen_with[name]}" for name in other)
    return float(calibration["tau"]), f"tau was chosen with {differing}" if other else ""


def _example(question: str) -> Example:
    return Example("Your question", question, "")


def _flow(arrays: dict[str, Any]) -> Flow:
    (p0, p1), (q0, q1), (r0, r1) = arrays["spans"].tolist()
    return Flow(
        saliency=arrays["saliency"],
        attention=arrays["attention"],
        tokens=tuple(arrays["tokens"].tolist()),
        spans=((p0, p1), (q0, q1), (r0, r1)),
        layers=tuple(arrays["layers"].tolist()),
    )
