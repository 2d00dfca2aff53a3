"""The lab: a page on loopback that traces a question again when tau, gamma or the token changes."""

from __future__ import annotations

import webbrowser
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dpc.cli.server import TOKEN_HEADER, PageServer, serve
from dpc.errors import UserError
from dpc.report import live_page
from dpc.report.document import asset, script_json
from dpc.report.page_data import payload
from dpc.run.session import Session
from dpc.settings import TaskSettings

# Where the slider stands for a prompt that was not calibrated: half of the late tokens.
_TAU = 0.5


class Asked(BaseModel):
    """What the page asks. tau, gamma, token: None for the method's own. flow: whether to send the maps."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    question: str = Field(max_length=20_000)
    tau: float | None = Field(None, ge=-1, le=1)
    gamma: float | None = Field(None, ge=0, le=100)
    token: int | None = Field(None, ge=0)
    flow: bool = True


def answer(session: Session, asked: Any) -> dict[str, Any]:
    """A traced question: ``payload`` as a page reads it, ``key`` (the token that gathers most) and ``seconds``.

    Raises ``UserError`` for what is no question, or can't be answered.
    """
    try:
        given = Asked.model_validate(asked)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the question"
        raise UserError(f"{where}: {first['msg'].lower()}") from error
    traced = session.trace(given.question, given.tau, given.gamma, given.token)
    instance, trace = traced.instance(), traced.trace
    shown = instance if given.flow else replace(instance, flow=None)
    return {
        "payload": payload([shown], session.settings.method),
        "key": int(trace.look.profile.argmax()),
        "seconds": {
            "first": trace.look.first.seconds,
            "saliency": trace.look.seconds,
            "second": trace.again.second.seconds,
        },
    }


def page(session: Session, token: str) -> bytes:
    """The document, whose script knows the token that the server asks for."""
    trigger, corruption = session.method.trigger, session.method.corruption
    assert trigger is not None
    assert corruption is not None
    known = {
        "token": token,
        "header": TOKEN_HEADER,
        "tau": _TAU if session.threshold is None else session.threshold,
        "origin": "given" if session.given else "none" if session.threshold is None else "calibrated",
        "gamma": corruption.settings(session.settings.method).gamma,
        "softTokens": len(session.prompt.vectors),
        "example": _example(session),
        # R alone is a share that a slider covers, and not every corruption is about a token.
        "movesTau": trigger.name == "flow",
        "movesCorruption": corruption.by_token,
    }
    script = f"const LAB = {script_json(known)};\n{asset('lab.js')}"
    return live_page(script, session.subject)


def _example(session: Session) -> str:
    """A question to begin with: the first test row of a task whose rows ship with dpc, else nothing."""
    if session.task.default_source != "embedded":
        return ""
    return session.task.load("test", None, TaskSettings())[0].question


def run_lab(session: Session, port: int, open_browser: bool) -> None:
    """Serve the page until Ctrl-C. Raises ``UserError`` where the port can't be had."""
    server = PageServer(port, lambda token: page(session, token), lambda asked: answer(session, asked))
    print(f"lab: {server.url} (Ctrl-C ends it)", flush=True)
    if session.note:
        print(f"note: {session.note}", flush=True)
    if open_browser:
        webbrowser.open(server.url)
    serve(server)
