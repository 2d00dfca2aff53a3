"""Several answers at once: beam search, and a vote among samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpc.engine import Beam, Candidates, Decoder, Request
from dpc.methods.method import Method, Setup
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.types import Answer, Cost


@dataclass(frozen=True, slots=True)
class BeamSearch:
    """A built method: the likeliest answer that a beam finds."""

    soft_prompt: SoftPrompt
    beams: int

    def answer(
        self, decoder: Decoder, questions: Sequence[Sequence[int]], max_new_tokens: int
    ) -> Iterator[tuple[int, Answer]]:
        """One beam search per question."""
        requests = [Request(question, self.soft_prompt, tag=index) for index, question in enumerate(questions)]
        for found in decoder.candidates(requests, max_new_tokens, Beam(self.beams)):
            yield found.request.tag, Answer(found.generations[0], None, None, _cost(found))


def _cost(found: Candidates) -> Cost:
    generated = sum(len(generation.ids) for generation in found.generations)
    return Cost(found.forward_passes, 0, generated, found.seconds, float(found.forward_tokens))


def _beam(setup: Setup) -> BeamSearch:
    return BeamSearch(setup.need_prompt("beam"), setup.settings.beams)


BEAM = Method("beam", "the likeliest answer that beam search finds; method.beams hypotheses go on", build=_beam)
