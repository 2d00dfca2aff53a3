"""A choice between the answers of several soft prompts, each answer scored under every prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dpc.engine import Decoded, Decoder, Request
from dpc.errors import UserError
from dpc.flow.likelihood import answer_log_probs
from dpc.methods.between_passes import decision_about
from dpc.methods.likelier import likelier
from dpc.methods.method import Method, Setup
from dpc.methods.one_pass import cost_of
from dpc.methods.triggers import UNSURE, FirstAnswer
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.types import Answer, Cost, Decision, Generation


@dataclass(slots=True, eq=False)
class _Chosen:
    """A question that several prompts answer. answers: by the number of the prompt."""

    question: Sequence[int]
    decision: Decision
    cost: Cost
    answers: dict[int, Generation] = field(default_factory=dict)

    def distinct(self) -> list[Generation]:
        """The different answers, that of the first prompt first."""
        ordered = [self.answers[number] for number in sorted(self.answers)]
        return list({(each.ids, each.end_id): each for each in reversed(ordered)}.values())[::-1]


@dataclass(frozen=True, slots=True)
class Choosing:
    """A built method. prompts: the first answers every question, the others where the trigger fires."""

    prompts: tuple[SoftPrompt, ...]
    threshold: float

    def answer(
        self, decoder: Decoder, questions: Sequence[Sequence[int]], max_new_tokens: int
    ) -> Iterator[tuple[int, Answer]]:
        """Answer with the first prompt; where the trigger fires, with all, and keep the likeliest answer."""
        asked: dict[int, _Chosen] = {}
        complete: list[int] = []
        # A tag names question and prompt.
        count = len(self.prompts)
        decoder.submit(
            Request(question, self.prompts[0], tag=index * count, likelihood=True)
            for index, question in enumerate(questions)
        )
        for decoded in decoder.drain(max_new_tokens):
            index, number = divmod(decoded.request.tag, count)
            if number == 0:
                decision = decision_about(self._seen(decoded), UNSURE, self.threshold)
                if not decision.triggered:
                    yield index, Answer(decoded.generation, decision, None, cost_of(decoded))
                    continue
                asked[index] = _Chosen(decoded.request.question, decision, Cost(0, 0, 0, 0.0))
                decoder.submit(self._others(decoder, decoded))
            asked[index].answers[number] = decoded.generation
            asked[index].cost += cost_of(decoded)
            if len(asked[index].answers) == count:
                complete.append(index)
            if len(complete) >= decoder.settings.saliency_batch_size:
                yield from self._choose(decoder, {each: asked.pop(each) for each in complete})
                complete = []
        yield from self._choose(decoder, {each: asked.pop(each) for each in complete})

    def _seen(self, decoded: Decoded) -> FirstAnswer:
        return FirstAnswer(decoded.request.question, decoded.generation, likelihood=decoded.likelihood)

    def _others(self, decoder: Decoder, decoded: Decoded) -> list[Request]:
        """The same question after every other prompt; the first answer is the draft."""
        first = decoded.request
        draft = decoded.generation.ids if decoder.settings.drafts else ()
        return [
            Request(first.question, prompt, draft, tag=first.tag + number)
            for number, prompt in enumerate(self.prompts[1:], start=1)
        ]

    def _choose(self, decoder: Decoder, chosen: dict[int, _Chosen]) -> Iterator[tuple[int, Answer]]:
        """Score the different answers of each question under every prompt; the largest sum wins."""
        differing = {index: each.distinct() for index, each in chosen.items()}
        pairs = [(index, answer) for index, found in differing.items() if len(found) > 1 for answer in found]
        sums = [0.0] * len(pairs)
        for prompt in self.prompts if pairs else ():
            asked, answers = [chosen[index].question for index, _ in pairs], [answer for _, answer in pairs]
            for place, log_probs in enumerate(answer_log_probs(decoder.lm, prompt.vectors, asked, answers)):
                sums[place] += float(log_probs.sum())
        scores: dict[int, list[float]] = {index: [] for index in chosen}
        for (index, _), total in zip(pairs, sums, strict=True):
            scores[index].append(total)
        for index, each in chosen.items():
            yield index, self._answer(each, differing[index], scores[index])

    def _answer(self, chosen: _Chosen, answers: list[Generation], scores: list[float]) -> Answer:
        if len(answers) == 1:
            return Answer(answers[0], chosen.decision, answers[0], chosen.cost, kept_first=True)
        tokens = len(self.prompts) * sum(len(chosen.question) + len(each.ids) for each in answers)
        cost = chosen.cost + Cost(len(self.prompts), 0, 0, 0.0, float(tokens))
        best = max(range(1, len(answers)), key=lambda place: scores[place])
        return likelier(answers[0], answers[best], (scores[0], scores[best]), chosen.decision, cost)


def _prompt_choice(setup: Setup) -> Choosing:
    first = setup.need_prompt("prompt_choice")
    if not setup.others:
        raise UserError("method prompt_choice needs a further soft prompt; pass --other-prompt DIR, once or more often")
    return Choosing((first, *setup.others), setup.need_threshold("prompt_choice", UNSURE))


PROMPT_CHOICE = Method(
    "prompt_choice",
    "where the model was unsure, the answers of several prompts; the one that is likeliest under all is kept",
    UNSURE,
    build=_prompt_choice,
)
