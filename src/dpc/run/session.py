"""``Session`` and ``TracedQuestion``: trace questions through one method, for notebooks, trace and lab."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpc.engine import Request, check_fits
from dpc.errors import UserError
from dpc.flow.flow_map import map_arrays, save_arrays
from dpc.flow.measures import prompt_to_question, prompt_to_rationale
from dpc.flow.shallow import name_layers, shallow_layers
from dpc.methods.method import Method, Setup
from dpc.methods.trace import Trace, Tracer
from dpc.model.lm import FrozenLM
from dpc.prompt.asked import asked_with, unrecorded_note
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.records.directory import versions
from dpc.report import trace_page
from dpc.report.flow_data import Flow
from dpc.report.page_data import Instance, Pass
from dpc.run.questions import check_text
from dpc.run.setup import load_setup
from dpc.settings import Settings
from dpc.tasks import Task
from dpc.types import Decision, Example, Generation, Score


class Session:
    """Traces questions through one method with two passes.

    threshold: the one given, else the calibrated one, else None. given: whether it was given. note: what a user should
    know about it, empty where there is nothing. format_note: what a user should know about the format of questions.
    Raises ``UserError`` for a folder without a prompt, a calibration that is not for it, or a method of one pass.
    """

    def __init__(
        self,
        lm: FrozenLM,
        task: Task,
        prompt: Path | SoftPrompt,
        settings: Settings,
        method: Method,
        tau: float | None = None,
    ) -> None:
        setup = load_setup(lm, prompt, [method], settings, task=task.name, tau=tau, any_corruption=True)
        self.task, self.settings, self.method = task, settings, method
        self.prompt = setup.need_prompt(method.name)
        self.lm = asked_with(lm, self.prompt, settings.task.chat)
        max_new_tokens = settings.decoding.max_new_tokens or task.max_new_tokens
        self._tracer = Tracer(self.lm, method, setup, settings.decoding, max_new_tokens)
        self.given, self.threshold = tau is not None, _threshold(method, setup)
        self.note = "; ".join(setup.notes)
        self.format_note = unrecorded_note(lm, self.prompt, settings.task.chat)

    def trace(
        self, question: str, threshold: float | None = None, gamma: float | None = None, token: int | None = None
    ) -> TracedQuestion:
        """Trace a question as it was typed; threshold: None for the session's own.

        Raises ``UserError`` for a question that is empty, no text, or too long, and where there is no threshold.
        """
        threshold = self.threshold if threshold is None else threshold
        if threshold is None:
            raise UserError("--prompt: no threshold beside it; run `dpc calibrate` first, or pass --tau")
        if not question.strip():
            raise UserError("the question is empty; expected some text")
        check_text(question, "question")
        ids = self.lm.encode(self.task.prompt(_example(question)))
        check_fits(self.lm, Request(ids, self.prompt), "question")
        return TracedQuestion(self, question, self._tracer.trace(ids, threshold, gamma, token))

    @property
    def subject(self) -> dict[str, str]:
        """What is looked at, for a page: name and value."""
        prompt = f"{len(self.prompt.vectors)} virtual tokens, sha256 {self.prompt.sha256[:12]}"
        return {
            "model": self.lm.title,
            "task": self.task.name,
            "asked": str(self.lm.asking),
            "method": self.method.name,
            "soft prompt": prompt,
        }


@dataclass(frozen=True, eq=False)
class TracedQuestion:
    """One question, traced: both answers, the decision, and the flow of information in every layer."""

    session: Session
    question: str
    trace: Trace

    def __repr__(self) -> str:
        triggered = "triggered" if self.decision.triggered else "not triggered"
        return f"TracedQuestion({self.question[:40]!r}, {triggered}, answer {self.answer!r})"

    def _repr_html_(self) -> str:
        page = self.page().replace("&", "&amp;").replace('"', "&quot;")
        return f'<iframe srcdoc="{page}" width="100%" height="700" style="border: 0"></iframe>'

    @property
    def decision(self) -> Decision:
        """What the trigger decided, and what it was computed from."""
        return self.trace.decision

    @property
    def first(self) -> Generation:
        """The answer with the soft prompt as it was tuned."""
        return self.trace.look.first.generation

    @property
    def second(self) -> Generation:
        """The answer with the corrupted prompt; it counts where the method triggered."""
        return self.trace.again.second.generation

    @property
    def answer(self) -> str | None:
        """The answer that counts, as the task finds it in the text; None where it finds none."""
        return self.score(self.second if self.decision.triggered else self.first).extracted

    def score(self, generation: Generation) -> Score:
        """The answer found in a generation. There is no gold answer: ``correct`` has no meaning."""
        return self.session.task.score(_example(self.question), generation.text)

    def token_texts(self) -> list[str]:
        """The text of each token of question and first rationale."""
        look = self.trace.look
        return self.session.lm.token_texts([*look.question, *look.first.generation.ids])

    def instance(self) -> Instance:
        """What a page shows of the trace."""
        look, texts = self.trace.look, self.token_texts()
        return Instance(
            example=_example(self.question),
            first=Pass(self.first, self.score(self.first), tuple(texts[len(look.question) :])),
            second=Pass(self.second, self.score(self.second)),
            decision=self.decision,
            flow=_flow(map_arrays(look.flow, texts)) if look.flow is not None else None,
        )

    def facts(self) -> dict[str, str]:
        """How the trace was made, for a page: name and value."""
        session, settings = self.session, self.session.settings.method
        note = f" ({session.note})" if session.note else ""
        return session.subject | {
            "threshold": f"{self.decision.threshold:.4g}{note}",
            "corruption": self.decision.evidence.corruption or "",
            "saliency": f"{settings.head_reduction}, shallow layers from {settings.shallow_start:.4g} to "
            f"{settings.shallow_stop:.4g} of the depth{self.layers_read(', ')}",
            "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        }

    def layers_read(self, before: str = "") -> str:
        """``before`` and which layers were read, where some have no softmax attention; otherwise nothing."""
        lm, settings = self.session.lm, self.session.settings.method
        known = self.trace.look.saliency.layers
        if len(known) == lm.layers:
            return ""
        shallow = name_layers(shallow_layers(known, settings.shallow_start, settings.shallow_stop))
        return (
            f"{before}counted among the {len(known)} of {lm.layers} layers with softmax attention: shallow {shallow}, "
            f"last layer {known[-1]} (from 0)"
        )

    def page(self) -> str:
        """The trace as a self-contained HTML page."""
        return trace_page(self.instance(), self.session.settings.method, self.facts())

    def summary(self) -> dict[str, Any]:
        """The numbers of the trace, as JSON values; times in seconds."""
        look, again, texts = self.trace.look, self.trace.again, self.token_texts()
        first, second = (
            {"text": g.text, "answer": self.score(g).extracted, "finish": g.finish, "ids": list(g.ids)}
            for g in (self.first, self.second)
        )
        decision, evidence = self.decision, self.decision.evidence
        return {
            "question": self.question,
            "model": self.session.lm.title,
            "asked": str(self.session.lm.asking),
            "prompt_sha256": self.session.prompt.sha256,
            "layers": list(look.saliency.layers),
            "method": self.session.method.name,
            "settings": self.session.settings.method.model_copy(update={"gamma": again.gamma}).model_dump(),
            "answer": self.answer,
            "first": first | {"tokens": texts[len(look.question) :]},
            "second": second | {"counts": decision.triggered},
            "decision": {
                "triggered": decision.triggered,
                "judged": decision.judged,
                "trigger": decision.trigger,
                "statistic": decision.statistic,
                "threshold": decision.threshold,
                "masked_token": decision.key_token,
                "reason": evidence.reason,
                "beta": evidence.beta,
                "late_flow": evidence.late_flow,
                "rationale_loss": evidence.rationale_loss,
                "influence": look.influence.tolist(),
                "profile": look.profile.tolist(),
                "accumulated": evidence.accumulated,
                "corruption": evidence.corruption,
                "more": evidence.more,
            },
            "prompt_to_question": prompt_to_question(look.saliency).tolist() if look.question else [],
            "prompt_to_rationale": prompt_to_rationale(look.saliency).tolist(),
            "seconds": {"first": look.first.seconds, "saliency": look.seconds, "second": again.second.seconds},
        }

    def arrays(self) -> dict[str, Any]:
        """The arrays of the trace.

        ``spans`` is ``[[start, stop], ...]`` of prompt, question and rationale. ``scores`` are the saliency's prompt
        columns ``[layer, row, prompt]``. Where the question is not too long for a map there are also ``saliency`` and
        ``attention`` ``[layer, row, column]``, and ``tokens``, the label of each column.
        """
        look, decision, again = self.trace.look, self.decision, self.trace.again
        spans = look.saliency.spans
        whole = {} if look.flow is None else map_arrays(look.flow, self.token_texts())
        return whole | {
            "question_ids": np.array(look.question),
            "rationale_ids": np.array(self.first.ids),
            "spans": np.array([[s.start, s.stop] for s in (spans.prompt, spans.question, spans.rationale)]),
            "layers": np.array(look.saliency.layers),
            "scores": look.saliency.scores.cpu().numpy(),
            "loss": np.array(look.saliency.loss),
            "s": look.influence.cpu().numpy(),
            "beta": np.array(np.nan if decision.evidence.beta is None else decision.evidence.beta),
            "statistic": np.array(np.nan if decision.statistic is None else decision.statistic),
            "threshold": np.array(decision.threshold),
            "triggered": np.array(decision.triggered),
            "S_acc": look.profile.cpu().numpy(),
            "key_token": np.array(int(look.profile.argmax())),
            "masked_token": np.array(-1 if again.token is None else again.token),
            "corrupted": again.corrupted.vectors.cpu().numpy(),
            "second_rationale_ids": np.array(self.second.ids, dtype=np.int64),
        }

    def save_arrays(self, path: Path) -> None:
        """Write ``arrays`` as a compressed ``.npz``. Raises ``UserError`` where it cannot be written."""
        save_arrays(path, self.arrays())


def _threshold(method: Method, setup: Setup) -> float | None:
    assert method.trigger is not None
    if method.trigger.threshold_from == "tau":
        return setup.tau_of(method.trigger.name)
    return setup.need_threshold(method.name, method.trigger)


def _example(question: str) -> Example:
    return Example("Your question", question, "")


def _flow(arrays: dict[str, Any]) -> Flow:
    (p0, p1), (q0, q1), (r0, r1) = arrays["spans"].tolist()
    tokens: Sequence[str] = arrays["tokens"].tolist()
    return Flow(
        saliency=arrays["saliency"],
        attention=arrays["attention"],
        tokens=tuple(tokens),
        spans=((p0, p1), (q0, q1), (r0, r1)),
        layers=tuple(arrays["layers"].tolist()),
    )
