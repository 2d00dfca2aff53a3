"""What ``dpc trace`` does: one question traced, on the terminal, as JSON, as arrays, as a page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpc.cli.session import Session
from dpc.cli.terminal import differences, heat_strip, is_plain, printable, profile_strip
from dpc.errors import UserError
from dpc.flow.flow_map import map_arrays, save_arrays
from dpc.flow.trigger import SHORTEST_RATIONALE
from dpc.methods.trace import Trace
from dpc.report import write_trace_page
from dpc.types import middle


def show_trace(
    session: Session, question: str, token: int | None, *, as_json: bool, npz: Path | None, html: Path | None
) -> None:
    """Trace one question; print it, or its numbers as JSON alone, and write the files that were asked for.

    Raises ``UserError`` where there is no threshold, for a question or token that is none, or a file that can't be
    written.
    """
    if session.tau is None:
        raise UserError("--prompt: no threshold beside it; run `dpc calibrate` first, or pass --tau")
    trace = session.trace(question, session.tau, token=token)
    written = []
    if npz is not None:
        save_arrays(npz, arrays(session, trace))
        written.append(f"numbers: {npz}")
    if html is not None:
        instance, k = session.instance(question, trace), session.settings.method.accumulation_k
        write_trace_page(html, instance, k=k, facts=session.facts(trace.again.gamma, trace.decision.threshold))
        written.append(f"page: {html.resolve().as_uri()}")
    if as_json:
        print(json.dumps(session.summary(question, trace), ensure_ascii=False, allow_nan=False, indent=2))
    else:
        print_trace(Console(highlight=False, markup=False, soft_wrap=False), session, question, trace)
    for line in [*written, *([f"note: {session.note}"] if session.note else [])]:
        print(line, file=sys.stderr if as_json else sys.stdout)


def arrays(session: Session, trace: Trace) -> dict[str, Any]:
    """The arrays of a trace, for an ``.npz`` file.

    ``spans`` is ``[[start, stop], ...]`` of prompt, question and rationale. ``scores`` are the saliency's prompt
    columns ``[layer, row, prompt]``. Where the question is not too long for a map there are also ``saliency`` and
    ``attention`` ``[layer, row, column]``, and ``tokens``, the label of each column.
    """
    look, decision = trace.look, trace.decision
    spans = look.saliency.spans
    whole = {} if look.flow is None else map_arrays(look.flow, session.token_texts(trace))
    return whole | {
        "question_ids": np.array(look.question),
        "rationale_ids": np.array(look.first.generation.ids),
        "spans": np.array([[s.start, s.stop] for s in (spans.prompt, spans.question, spans.rationale)]),
        "layers": np.array(look.saliency.layers),
        "scores": look.saliency.scores.cpu().numpy(),
        "loss": np.array(look.saliency.loss),
        "s": look.influence.cpu().numpy(),
        "beta": np.array(decision.evidence.get("beta", np.nan)),
        "R": np.array(np.nan if decision.ratio is None else decision.ratio),
        "tau": np.array(decision.threshold),
        "triggered": np.array(decision.triggered),
        "S_acc": look.profile.cpu().numpy(),
        "key_token": np.array(int(look.profile.argmax())),
        "masked_token": np.array(trace.again.token),
        "corrupted": trace.again.corrupted.vectors.cpu().numpy(),
        "second_rationale_ids": np.array(trace.again.second.generation.ids, dtype=np.int64),
    }


def print_trace(console: Console, session: Session, question: str, trace: Trace) -> None:
    """Both answers, the decision, and where the prompt's influence goes."""
    plain, look, decision = is_plain(console), trace.look, trace.decision
    console.print(Text(printable(question), style="bold"))
    console.print(_answers(session, question, trace, plain))
    console.print(Text(_verdict(trace)))
    tokens = session.token_texts(trace)[len(look.question) :]
    influence = look.influence.tolist()
    half = middle(len(influence))
    for name, part in (("early", slice(0, half)), ("late", slice(half, None))):
        if tokens[part]:
            largest = max(influence[part])
            console.print(Text(f"\ns_i, {name} rationale: the prompt's influence on each token, largest {largest:.2e}"))
            console.print(heat_strip(tokens[part], influence[part], max(influence), console.width, plain))
    gathers = "gathers" if decision.evidence["accumulated"] else "does not gather"
    most, k = float(look.profile.max()), session.settings.method.accumulation_k
    console.print(Text(f"\nS_acc(j): what each soft token receives, largest {most:.2e}"))
    console.print(Text(f"information {gathers} in one of them (largest against {k:g} times the mean)"))
    console.print(Text(profile_strip(look.profile.tolist(), trace.again.token, console.width)))
    console.print(Text(_timing(trace)))


def _answers(session: Session, question: str, trace: Trace, plain: bool) -> Table:
    first, second = trace.look.first.generation, trace.again.second.generation
    left, right = differences(first.text, second.text, plain)
    grid = Table(show_edge=False, pad_edge=False, expand=True)
    fired = trace.decision.triggered
    grid.add_column("first answer" + ("" if fired else " (counts)"), overflow="fold", ratio=1)
    grid.add_column("second answer (counts)" if fired else "second answer, had it triggered", overflow="fold", ratio=1)
    grid.add_row(left, right)
    found = [session.score(question, generation).extracted for generation in (first, second)]
    said = ["no answer found" if answer is None else f"answer: {printable(answer)}" for answer in found]
    cut = [" (cut at its limit)" if generation.finish == "length" else "" for generation in (first, second)]
    grid.add_row(*(Text(f"\n{answer}{limit}", style="bold") for answer, limit in zip(said, cut, strict=True)))
    return grid


def _verdict(trace: Trace) -> str:
    decision, evidence = trace.decision, trace.decision.evidence
    masked = f"soft token {trace.again.token} masked ({evidence['token_rule']}), gamma = {trace.again.gamma:g}"
    if decision.ratio is None:
        count = len(trace.look.influence)
        return f"not triggered: a rationale of {count} tokens, judged from {SHORTEST_RATIONALE} on; {masked}"
    late = len(trace.look.influence) - middle(len(trace.look.influence))
    sign, fired = (">", "triggered") if decision.triggered else ("<=", "not triggered")
    share = f"{round(decision.ratio * late)} of {late} late tokens above beta = {evidence['beta']:.2e}"
    return f"R = {decision.ratio:.3f} {sign} tau = {decision.threshold:.3f}: {fired}; {share}\n{masked}"


def _timing(trace: Trace) -> str:
    first, second = trace.look.first, trace.again.second
    total = first.seconds + trace.look.seconds + second.seconds
    return (
        f"\n{total:.2f} s: first answer {first.seconds:.2f} s ({first.forward_passes} passes), saliency "
        f"{trace.look.seconds:.2f} s, second answer {second.seconds:.2f} s ({second.forward_passes} passes)"
    )
