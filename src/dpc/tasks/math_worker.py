"""The program that compares mathematical answers with math-verify: questions as JSON lines in, one byte a line out.

It runs in a process of its own (``equality.py`` starts it), so that an expression may hang or crash it. math-verify's
own limit is not used: it interrupts Python code only, and a power tower is computed outside of it.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys

READY, EQUAL, DIFFERENT = b"ready\n", b"1\n", b"0\n"
MEMORY_BYTES = 4 * 1024**3


def equal(gold: str, answer: str) -> bool:
    """Whether math-verify takes ``answer`` for ``gold``; both in LaTeX without dollar signs. Not symmetric.

    Source: https://github.com/huggingface/Math-Verify/tree/5871e2d485e90ffe39dd3555b87dfada6af89565 (0.9.0)
    """
    from math_verify import LatexExtractionConfig, parse, verify

    both = [parse(rf"\boxed{{{text}}}", [LatexExtractionConfig()], parsing_timeout=None) for text in (gold, answer)]
    # An interval may be answered by the inequality that says the same.
    return bool(verify(both[0], both[1], timeout_seconds=None, allow_set_relation_comp=True))


def main(cpu_seconds: float) -> None:
    """Answer questions until the input ends. One that takes longer than ``cpu_seconds`` ends the process instead."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES if most < 0 else min(MEMORY_BYTES, most), most))
    logging.disable()
    equal("1", "2")
    answers = sys.stdout.buffer
    answers.write(READY)
    answers.flush()
    for line in sys.stdin.buffer:
        gold, answer = json.loads(line)
        # Seconds of the processor, not of the clock: a busy machine grades as an idle one does.
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            verdict = equal(gold, answer)
        except Exception:
            verdict = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(EQUAL if verdict else DIFFERENT)
        answers.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]))
