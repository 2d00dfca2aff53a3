"""One architecture compared with its own code, in one floating-point type: a verdict for each thing that dpc computes.

A verdict is ``equal`` (tokens, decisions), an error (relative, Frobenius norm), ``refused: ...`` with the line that the
user reads, or ``wrong: ...``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from peft import PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from dpc.engine import Decoder, Request
from dpc.errors import UserError
from dpc.flow.saliency import SaliencyWay, prompt_saliency
from dpc.flow.shallow import shallow_layers
from dpc.methods import build_method, get_method
from dpc.methods.method import Setup
from dpc.methods.trace import Tracer
from dpc.model.lm import FrozenLM
from dpc.prompt.soft_prompt import SoftPrompt, load_adapter
from dpc.prompt.target_loss import target_loss
from dpc.settings import DecodingSettings
from tests.architectures import reference
from tests.architectures.reference import ENDS, NEW_TOKENS

PROMPT = 5
# Tokens of the questions: with answers, rows are shorter and longer than windows, chunks and a rope.s first context.
QUESTIONS = (3, 26, 9, 17, 1, 33, 12)
WAYS: tuple[SaliencyWay, ...] = ("one graph", "by block", "whole")
# Largest relative error in float32; in 16 bits this many times the error of the model itself, and at least ROUNDED.
EXACT, TIMES, ROUNDED, NOISE = 2e-4, 3.0, 0.05, 12
# A logit in bfloat16 is known to one part in 256; a tie is a difference of a few such parts.
TIE = 8 * 2**-8
# Sums of saliency that are nearer to each other than this may change places in 16 bits.
MARGIN = {torch.float32: 1e-3, torch.bfloat16: 0.25}


class Differs(Exception):
    """Something that the package computed is not what the model itself computes."""


@dataclass
class Comparison:
    """A model, loaded as the command line loads it. adapter: the folder of a soft prompt that PEFT wrote."""

    lm: FrozenLM
    adapter: Path

    def verdicts(self) -> dict[str, str]:
        checks: dict[str, Callable[[], str]] = {
            "slots": self.slots,
            "drafts": self.drafts,
            "plain": self.plain,
            "saliency": self.saliency,
            "trigger": self.trigger,
            "gradient": self.gradient,
        }
        return {name: _verdict(check) for name, check in checks.items()}

    def __post_init__(self) -> None:
        assert self.lm.model.generation_config is not None
        self.lm.model.generation_config.eos_token_id = ENDS

    @cached_property
    def prompt(self) -> SoftPrompt:
        return load_adapter(self.lm, self.adapter)

    @cached_property
    def bare(self) -> Tensor:
        """No virtual tokens at all."""
        return self.prompt.vectors[:0]

    @cached_property
    def questions(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(1)
        return [torch.randint(110, 250, (count,), generator=generator).tolist() for count in QUESTIONS]

    @cached_property
    def answers(self) -> list[tuple[int, ...]]:
        return [reference.answer(self.lm.model, self.prompt.vectors, question) for question in self.questions]

    @cached_property
    def targets(self) -> list[tuple[list[int], list[int]]]:
        """Questions with random rationales of different lengths."""
        generator = torch.Generator().manual_seed(2)
        counts = (14, 11, 5, 23)
        targets = [torch.randint(2, self.lm.vocab_size, (count,), generator=generator).tolist() for count in counts]
        return list(zip(self.questions, targets, strict=False))

    @cached_property
    def exact(self) -> FrozenLM:
        """The same weights, computed with in float32."""
        lm = self.lm
        return lm if lm.dtype == torch.float32 else FrozenLM(copy.deepcopy(lm.model).float(), lm.tokenizer, lm.name, "")

    @cached_property
    def flow(self) -> list[dict[int, Tensor]]:
        """Saliency of ``targets``, in float32."""
        return [reference.saliency(self.exact.model, self.prompt.vectors, q, t) for q, t in self.targets]

    @property
    def softmax_attention(self) -> list[int]:
        """Layers with softmax attention; empty where this is not known, because their probabilities cannot be seen."""
        try:
            return list(self.flow[0])
        except (AssertionError, AttributeError, RuntimeError, UserError):
            return []

    def slots(self) -> str:
        """Rows of different lengths, with the prompt, with another, and without, in fewer slots than rows."""
        other = SoftPrompt.of(self.prompt.vectors[:3] * 0.9, self.lm.name)
        requests = [Request(question, self.prompt, tag=tag) for tag, question in enumerate(self.questions)]
        requests += [Request(question, None, tag=80 + tag) for tag, question in enumerate(self.questions[:2])]
        requests += [Request(self.questions[2], other, tag=90)]
        bare = [reference.answer(self.lm.model, self.bare, question) for question in self.questions[:2]]
        if bare == self.answers[:2]:
            raise Differs("the prompt changes nothing, so this comparison shows nothing")
        expected = [*self.answers, *bare, reference.answer(self.lm.model, other.vectors, self.questions[2])]
        decoder = Decoder(self.lm, DecodingSettings(batch_size=3, draft_tokens=0))
        return self._same(requests, expected, decoder)

    def drafts(self) -> str:
        """Right drafts, drafts with a wrong token in the middle, and drafts from what other rows wrote."""
        requests = []
        for tag, (question, answer) in enumerate(zip(self.questions, self.answers, strict=True)):
            wrong = [(token + 3) % 250 if at == len(answer) // 2 else token for at, token in enumerate(answer)]
            requests.append(Request(question, self.prompt, draft=wrong if tag % 2 else answer, tag=tag))
        requests += [Request(question, self.prompt, tag=50 + tag) for tag, question in enumerate(self.questions)]
        decoder = Decoder(self.lm, DecodingSettings(batch_size=4, draft_tokens=3))
        return self._same(requests, self.answers * 2, decoder)

    def plain(self) -> str:
        """A padded batch of all rows."""
        requests = [Request(question, self.prompt, tag=tag) for tag, question in enumerate(self.questions)]
        return self._same(requests, self.answers, Decoder(self.lm, DecodingSettings(slots=False)))

    def _same(self, requests: Sequence[Request], expected: Sequence[tuple[int, ...]], decoder: Decoder) -> str:
        made = [generation.ids for generation in decoder.all(requests, NEW_TOKENS)]
        return self._equal(requests, expected, made)

    def _equal(
        self, requests: Sequence[Request], expected: Sequence[tuple[int, ...]], made: Sequence[tuple[int, ...]]
    ) -> str:
        gaps = [self._gap(*row) for row in zip(requests, expected, made, strict=True)]
        parted = [gap for gap in gaps if gap is not None]
        if not parted:
            return "equal"
        if self.lm.dtype == torch.float32 or any(gap >= tie for gap, tie in parted):
            most = max(gap for gap, _ in parted)
            raise Differs(
                f"{len(parted)} of {len(gaps)} answers, where tokens are {most:.1%} of the largest logit apart"
            )
        return "equal, but for ties"

    def _gap(self, request: Request, one: tuple[int, ...], other: tuple[int, ...]) -> tuple[float, float] | None:
        """How far apart the tokens are where two answers part, and how far they may be; None where they are equal.

        Both are shares of the largest logit. The limit is a tie of numbers in 16 bits, or where it is larger the
        error of the model's own logits: rounding may route a token to another expert.
        """
        end = (ENDS[0],)
        at = next((i for i, (a, b) in enumerate(zip(one + end, other + end, strict=False)) if a != b), None)
        if at is None:
            return None
        vectors = self.bare if request.soft_prompt is None else request.soft_prompt.vectors
        ids = [*request.question, *one[:at]]
        last = reference.all_logits(self.lm.model, vectors, ids)[0, -1]
        a, b = (last[ENDS].max() if at == len(answer) else last[answer[at]] for answer in (one, other))
        # Each of the two logits may be off by it.
        rounding = reference.rounding(self.lm.model, self.exact.model, vectors, ids)
        return float((a - b).abs() / last.abs().max()), max(TIE, 2 * rounding)

    def saliency(self) -> str:
        """Every layer of several instances side by side, in each way of computing them."""
        questions, targets = zip(*self.targets, strict=True)
        errors = []
        for way in WAYS if self.lm.dtype == torch.float32 else WAYS[:1]:
            made = prompt_saliency(self.lm, self.prompt.vectors, questions, targets, way=way)
            for ours, truth in zip(made, self.flow, strict=True):
                if ours.layers != tuple(truth):
                    raise Differs(f"saliency of layers {ours.layers}, where softmax attention is in {tuple(truth)}")
                errors.append(_error(ours.scores, torch.stack([*truth.values()])))
        return self._close(max(errors), self._own_saliency_error)

    def _own_saliency_error(self, vectors: Tensor) -> float:
        found = [reference.saliency(self.lm.model, vectors, q, t) for q, t in self.targets]
        return max(
            _error(torch.stack([*own.values()]), torch.stack([*truth.values()]))
            for own, truth in zip(found, self.flow, strict=True)
        )

    def gradient(self) -> str:
        """The gradient of one batch of tuning, with the prompt shared and before each row."""
        truth = reference.loss_gradient(self.exact.model, self.prompt.vectors, self.targets)
        errors = []
        for shared in (True, False):
            leaf = self.prompt.vectors.clone().requires_grad_()
            loss = target_loss(self.lm, leaf, self.targets, shared)
            errors.append(_error(torch.autograd.grad(loss, leaf)[0], truth))

        def own(vectors: Tensor) -> float:
            return _error(reference.loss_gradient(self.lm.model, vectors, self.targets), truth)

        return self._close(max(errors), own)

    def _close(self, error: float, own_error: Callable[[Tensor], float]) -> str:
        if self.lm.dtype == torch.float32:
            if not error < EXACT:
                raise Differs(f"relative error {error:.1e}")
            return f"{error:.0e}"
        own, generator = own_error(self.prompt.vectors), torch.Generator().manual_seed(5)
        for _ in range(NOISE):
            if error < max(ROUNDED, TIMES * own):
                return f"{error:.1%} (own {own:.1%})"
            # Another rounding of the prompt may route other tokens to another expert.
            own = max(own, own_error(reference.rounded(self.prompt.vectors, self.lm.dtype, generator)))
        raise Differs(f"relative error {error:.1%}, where the model's own rounding gives {own:.1%}")

    def trigger(self) -> str:
        """R, decision, key token and second answer of the answers that are long enough, side by side and one traced."""
        lm, setup, decoding = self.lm, Setup(self.prompt, tau=-1.0), DecodingSettings(batch_size=3)
        made = dict(build_method(get_method("dpc"), setup).answer(Decoder(lm, decoding), self.questions, NEW_TOKENS))
        judged = 0
        for tag, question in enumerate(self.questions):
            first, decision, second = made[tag].first, made[tag].decision, made[tag].second
            assert decision is not None
            if len(first.ids) < 4:
                continue
            judged += 1
            truth = self._judged(question, first.ids)
            if decision.statistic is None or abs(decision.statistic - truth.ratio) > truth.unsure + 1e-9:
                raise Differs(f"R {decision.statistic}, from eager attention {truth.ratio}")
            if decision.key_token != truth.key_token and truth.runner_up < 1 - MARGIN[lm.dtype]:
                raise Differs(f"key token {decision.key_token}, from eager attention {truth.key_token}")
            assert second is not None
            assert decision.key_token is not None
            corrupted = SoftPrompt.of(_corrupted(self.prompt.vectors, decision.key_token), lm.name)
            self._equal(
                [Request(question, corrupted)],
                [reference.answer(lm.model, corrupted.vectors, question)],
                [second.ids],
            )
        if not judged:
            raise Differs("no answer is long enough to be judged, so this comparison shows nothing")
        longest = max(made, key=lambda tag: len(made[tag].first.ids))
        trace = Tracer(lm, get_method("dpc"), setup, decoding, NEW_TOKENS).trace(self.questions[longest], 0.4)
        truth = self._judged(self.questions[longest], trace.look.first.generation.ids)
        if abs((trace.decision.statistic or 0.0) - truth.ratio) > truth.unsure + 1e-9:
            raise Differs(f"traced R {trace.decision.statistic}, from eager attention {truth.ratio}")
        if trace.decision.triggered != (trace.decision.statistic is not None and trace.decision.statistic > 0.4):
            raise Differs(f"traced decision {trace.decision.triggered} for R {trace.decision.statistic}")
        return "equal" if lm.dtype == torch.float32 else "equal, but for ties"

    def _judged(self, question: Sequence[int], ids: Sequence[int]) -> reference.Judged:
        layers = reference.saliency(self.exact.model, self.prompt.vectors, question, ids)
        return reference.judged(layers, len(question), shallow_layers(range(len(layers))), MARGIN[self.lm.dtype])


def write_adapter(model: PreTrainedModel, folder: Path) -> None:
    """A soft prompt of random vectors as large as real embeddings, made and saved by PEFT alone."""
    embeddings, generator = model.get_input_embeddings(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        real = embeddings(torch.arange(2, embeddings.weight.shape[0]))
    config = PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=PROMPT,
        token_dim=real.shape[-1],
        num_transformer_submodules=1,
        num_layers=1,
        num_attention_heads=1,
    )
    tuned = get_peft_model(model, config)
    vectors = torch.randn(PROMPT, real.shape[-1], generator=generator) * real.std()
    tuned.prompt_encoder["default"].embedding.weight.data = vectors
    tuned.save_pretrained(str(folder))


def _verdict(check: Callable[[], str]) -> str:
    try:
        return check()
    except UserError as error:
        return f"refused: {error}"
    except Differs as error:
        return f"wrong: {error}"
    except Exception as error:
        return f"wrong: {type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _error(ours: Tensor, truth: Tensor) -> float:
    return float((ours.double() - truth.double()).norm() / truth.double().norm())


def _corrupted(vectors: Tensor, key_token: int) -> Tensor:
    """The key token zero; of every other vector the tenth of its values that is smallest."""
    corrupted = vectors.clone()
    for row in corrupted:
        row[row.abs().argsort()[: len(row) // 10]] = 0.0
    corrupted[key_token] = 0.0
    return corrupted
