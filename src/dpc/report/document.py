"""A self-contained HTML document, with a content security policy that allows its own script and style alone."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

SCRIPTS = (
    "dom.js",
    "data.js",
    "differences.js",
    "colours.js",
    "charts.js",
    "flow.js",
    "instance.js",
    "list.js",
    "run.js",
    "start.js",
)
# Characters with a meaning in HTML or JavaScript.
ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def document(
    template: str,
    values: Mapping[str, Any],
    payload: Mapping[str, Any] | None,
    *,
    own_script: str = "",
    server: bool = False,
) -> bytes:
    """``template`` (a file of ``web/``) rendered with ``values``; its scripts read ``payload``.

    own_script: JavaScript that runs after that of ``web/``, in the same scope. server: it may connect to the server it
    came from. Everything in ``values`` is escaped, ``payload`` is data that no parser takes for markup.
    """
    script = "\n".join(['"use strict";', "{", *map(asset, SCRIPTS), own_script, "}", ""])
    style = asset("page.css")
    policy = [
        "default-src 'none'",
        f"script-src '{_hash(script)}'",
        f"style-src '{_hash(style)}'",
        "img-src data:",
        *(["connect-src 'self'"] if server else []),
        "base-uri 'none'",
        "form-action 'none'",
    ]
    html = (
        _environment()
        .get_template(template)
        .render(
            **values,
            policy="; ".join(policy),
            script=script,
            style=style,
            payload=None if payload is None else script_json(payload),
        )
    )
    # JSON can have half a surrogate pair, UTF-8 cannot.
    return html.encode("utf-8", errors="replace")


def script_json(value: Any) -> str:
    """JSON for a script element, which no string of it can end."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(ESCAPES)


@cache
def asset(name: str) -> str:
    """The text of a file of ``web/``."""
    return (files("dpc.report") / "web" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
