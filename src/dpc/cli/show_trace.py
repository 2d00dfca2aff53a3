"""What ``dpc trace`` prints and writes: one traced question as text, JSON, arrays, or a page."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dpc.cli.terminal import differences, heat_strip, is_plain, printable, profile_strip
from dpc.files import write_atomically
from dpc.flow.measures import has_accumulated
from dpc.flow.trigger import SHORTEST_RATIONALE
from dpc.methods.trace import Trace
from dpc.run.session import TracedQuestion
from dpc.types import middle


def show_trace(traced: TracedQuestion, *, as_json: bool, npz: Path | None, html: Path | None) -> None:
    """Print a trace, or its numbers as JSON alone, and write the files that were asked for.

    Raises ``UserError`` where a file cannot be written.
    """
    written = []
    if npz is not None:
        traced.save_arrays(npz)
        written.append(f"numbers: {npz}")
    if html is not None:
        write_atomically(html, traced.page().encode())
        written.append(f"page: {html.resolve().as_uri()}")
    if as_json:
        print(json.dumps(traced.summary(), ensure_ascii=False, allow_nan=False, indent=2))
    else:
        print_trace(Console(highlight=False, markup=False, soft_wrap=False), traced)
    note = traced.session.note
    for line in [*written, *([f"note: {note}"] if note else [])]:
        print(line, file=sys.stderr if as_json else sys.stdout)


def print_trace(console: Console, traced: TracedQuestion) -> None:
    """Both answers, the decision, and where the prompt's influence goes."""
    plain, look, decision = is_plain(console), traced.trace.look, traced.decision
    console.print(Text(printable(traced.question), style="bold"))
    console.print(_answers(traced, plain))
    console.print(Text(_verdict(traced)))
    tokens = traced.token_texts()[len(look.question) :]
    influence = look.influence.tolist()
    half = middle(len(influence))
    for name, part in (("early", slice(0, half)), ("late", slice(half, None))):
        if tokens[part]:
            largest = max(influence[part])
            console.print(Text(f"\ns_i, {name} rationale: the prompt's influence on each token, largest {largest:.2e}"))
            console.print(heat_strip(tokens[part], influence[part], max(influence), console.width, plain))
    k = traced.session.settings.method.accumulation_k
    gathers = "gathers" if has_accumulated(look.profile, k) else "does not gather"
    console.print(Text(f"\nS_acc(j): what each virtual token receives, largest {float(look.profile.max()):.2e}"))
    console.print(Text(f"information {gathers} in one of them (largest against {k:g} times the mean)"))
    console.print(Text(profile_strip(look.profile.tolist(), decision.key_token, console.width)))
    if layers := traced.layers_read():
        console.print(Text(f"\nsaliency: {layers}"))
    console.print(Text(_timing(traced.trace)))


def _answers(traced: TracedQuestion, plain: bool) -> Table:
    first, second = traced.first, traced.second
    left, right = differences(first.text, second.text, plain)
    grid = Table(show_edge=False, pad_edge=False, expand=True)
    fired = traced.decision.triggered
    grid.add_column("first answer" + ("" if fired else " (counts)"), overflow="fold", ratio=1)
    grid.add_column("second answer (counts)" if fired else "second answer, had it triggered", overflow="fold", ratio=1)
    grid.add_row(left, right)
    found = [traced.score(generation).extracted for generation in (first, second)]
    said = ["no answer found" if answer is None else f"answer: {printable(answer)}" for answer in found]
    cut = [" (cut at its limit)" if generation.finish == "length" else "" for generation in (first, second)]
    grid.add_row(*(Text(f"\n{answer}{limit}", style="bold") for answer, limit in zip(said, cut, strict=True)))
    return grid


def _verdict(traced: TracedQuestion) -> str:
    decision, look = traced.decision, traced.trace.look
    token = "" if decision.key_token is None else f"virtual token {decision.key_token}, "
    corrupted = f"corruption: {token}{decision.evidence.corruption}"
    count = len(look.influence)
    if not decision.judged:
        return f"not triggered: a rationale of {count} tokens, judged from {SHORTEST_RATIONALE} on\n{corrupted}"
    fired = "triggered" if decision.triggered else "not triggered"
    if decision.statistic is None:
        return f"{fired} (trigger {decision.trigger})\n{corrupted}"
    sign = ">" if decision.triggered else "<="
    if decision.trigger != "flow":
        compared = f"{decision.statistic:.4g} {sign} {decision.threshold:.4g}"
        if abs(decision.threshold) == sys.float_info.max:
            compared = f"{decision.statistic:.4g}, and the threshold never triggers"
        return f"{decision.trigger} = {compared}: {fired}\n{corrupted}"
    late = count - middle(count)
    share = f"{round(decision.statistic * late)} of {late} late tokens above beta = {decision.evidence.beta:.2e}"
    return f"R = {decision.statistic:.3f} {sign} tau = {decision.threshold:.3f}: {fired}; {share}\n{corrupted}"


def _timing(trace: Trace) -> str:
    first, second = trace.look.first, trace.again.second
    total = first.seconds + trace.look.seconds + second.seconds
    return (
        f"\n{total:.2f} s: first answer {first.seconds:.2f} s ({first.forward_passes} passes), saliency "
        f"{trace.look.seconds:.2f} s, second answer {second.seconds:.2f} s ({second.forward_passes} passes)"
    )
