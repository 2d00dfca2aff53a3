"""Made-up results, hostile texts, and a reader of pages."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from dpc.flow.thresholds import calibrate
from dpc.records.results import MadeBy, MethodResult, Results
from dpc.records.summary import summarize
from dpc.report import write_page
from dpc.types import Answer, Cost, Decision, Generation, Reason, Record, Score

N = 1000
TAU = 0.41
STEPS = "Tom buys 3 pens: 4 + 3 = 7.\nTom loses 2 pens: 7 - 2 = 5.\nHalf of them: 5 * 2 = 10.\n#### 10"
MENDED = (
    "Tom buys 3 pens: 4 + 3 = 7.\nTom loses 2 pens: 7 - 2 = 5.\nTwo times as many: 5 * 2 = 10.\nNow 10 - 1 = 9.\n#### 9"
)
HOSTILE = [
    "<script>document.title = 'owned'</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x="',
    "' autofocus onfocus=alert(1) '",
    "</style><script>alert(1)</script>",
    "</title></svg></pre><iframe srcdoc='<script>alert(1)</script>'>",
    "{{ 7 * 7 }}{% raw %} {# ]]> <!-- <![CDATA[ &lt;b&gt; &#60;script&#62;",
    "javascript:alert(1)",
    "🍎👩‍🔬 four apples 🇪🇺",
    "كم عدد التفاحات؟ \u202e321\u202c \u2066כמה\u2069",
]


def record(
    index: int, method: str, first: bool, final: bool | None = None, decision: Decision | None = None, passes: int = 40
) -> Record:
    def score(correct: bool) -> Score:
        reason: Reason = "match" if correct else "mismatch"
        return Score(correct, "10", reason)

    text = Generation((1, 2, 3), STEPS, "eos")
    answer = Answer(
        text,
        decision,
        None if final is None else text,
        Cost(passes, 0, passes, passes * 1.5e-3, 2.5 * passes, 0.5 * passes),
    )
    return Record(f"test-{index}", method, answer, score(first), score(first if final is None else final))


def thousand() -> dict[str, list[Record]]:
    """A plausible evaluation: the prompt helps, the trigger is a fair detector, the second answer helps a little."""
    draw = random.Random(7)
    made: dict[str, list[Record]] = {"pretrained": [], "prompt_tuning": [], "dpc": []}
    for i in range(N):
        skill = draw.random()
        first = skill < 0.55
        ratio = None if i % 250 == 0 else min(max(draw.gauss(0.35 if first else 0.5, 0.15), 0.0), 1.0)
        fires = ratio is not None and ratio > TAU
        second = draw.random() < (0.93 if first else 0.18)
        decision = Decision(fires, ratio, TAU, key_token=3)
        made["pretrained"].append(record(i, "pretrained", skill + draw.gauss(0, 0.15) < 0.45, passes=44))
        made["prompt_tuning"].append(record(i, "prompt_tuning", first))
        made["dpc"].append(record(i, "dpc", first, second if fires else None, decision, passes=81 if fires else 41))
    return made


def pairs(fixed: int, broken: int, both: int, neither: int, *, fires: bool = True) -> Results:
    """Results in which DPC fixed and broke so many answers of prompt tuning."""
    kinds = [(False, True)] * fixed + [(True, False)] * broken + [(True, True)] * both + [(False, False)] * neither
    decision = Decision(fires, 0.5, 0.4 if fires else 1.0)
    records = {
        "prompt_tuning": [record(i, "prompt_tuning", before) for i, (before, _) in enumerate(kinds)],
        "dpc": [record(i, "dpc", a, b, decision, 50) for i, (a, b) in enumerate(kinds)],
    }
    return results(summarize(records), len(kinds))


def results(methods: dict[str, MethodResult], n: int = N) -> Results:
    return Results(
        format=2,
        model="zoo",
        task="zoo",
        split="test",
        n=n,
        methods=methods,
        calibration=None,
        test_curve=None,
        made_by=MadeBy(
            command="dpc run --output runs/demo",
            versions={"python": "3.11.9", "dpc": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
            source={"commit": "5f0c2a91d6e84b7c3a1f9e0d2b4c6a8e7f5d3b1c", "dirty": True},
        ),
    )


def calibration() -> dict[str, Any]:
    draw = random.Random(3)
    first = [draw.random() < 0.55 for _ in range(400)]
    second = [draw.random() < (0.93 if right else 0.18) for right in first]
    # Shares of a few dozen tokens: many instances have the same.
    ratios = [round(min(max(draw.gauss(0.35 if right else 0.5, 0.15), 0), 1) * 37) / 37 for right in first]
    chosen = calibrate(ratios, first, second)
    return {"tau": chosen.tau, "n": 400, "curve": [asdict(point) for point in chosen.curve], "from": {}}


def page_of(value: Any, run: Path) -> str:
    (run / "results.json").write_text(json.dumps(value), encoding="utf-8")
    path = write_page(run)
    assert path == run / "report.html"
    assert sorted(p.name for p in run.iterdir()) == ["report.html", "results.json"]
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a browser would find: elements in order with their attributes, and the text of each."""

    VOID = ("meta", "link", "br", "img")

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[list[str]] = []
        self.open: list[tuple[str, int]] = []
        self.ends: dict[int, int] = {}
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.texts.append([])
        if tag not in self.VOID:
            self.open.append((tag, len(self.elements) - 1))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        name, start = self.open.pop()
        assert name == tag
        self.ends[start] = len(self.elements)

    def handle_data(self, data: str) -> None:
        for _, index in self.open:
            self.texts[index].append(data)

    def text(self, tag: str, **attributes: str) -> list[str]:
        """Texts of all such elements."""
        found = enumerate(self.elements)
        return ["".join(self.texts[i]) for i, (t, a) in found if t == tag and attributes.items() <= a.items()]

    def cells(self, tag: str, kind: str) -> list[str]:
        """Texts of such cells of the table of class ``kind``."""
        start = next(i for i, (t, a) in enumerate(self.elements) if t == "table" and a.get("class") == kind)
        inside = range(start, self.ends[start])
        return ["".join(self.texts[i]) for i in inside if self.elements[i][0] == tag]

    def having(self, kind: str) -> list[dict[str, str]]:
        """Attributes of every element of class ``kind``."""
        return [a for _, a in self.elements if kind in a.get("class", "").split()]


def put_everywhere(value: Any, text: str) -> Any:
    """``value`` with every string of it replaced."""
    if isinstance(value, dict):
        return {key: put_everywhere(inner, text) for key, inner in value.items()}
    if isinstance(value, list):
        return [put_everywhere(inner, text) for inner in value]
    return text if isinstance(value, str) else value
