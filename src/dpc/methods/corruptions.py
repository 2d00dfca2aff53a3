"""Corruptions: functions from a soft prompt and a traced first answer to the prompt of the second pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from dpc.errors import UserError
from dpc.flow.measures import key_token
from dpc.methods.draw import draw_position
from dpc.methods.triggers import FirstAnswer
from dpc.prompt.corruption import corrupt
from dpc.prompt.soft_prompt import SoftPrompt
from dpc.settings import MethodSettings


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """A first answer that triggered, and what a corruption may look at.

    profile: ``S_acc`` of each virtual token (Eq 6), None where the corruption does not trace. settings: of the run,
    with what the corruption overrides.
    """

    first: FirstAnswer
    settings: MethodSettings
    length: int
    profile: Float[Tensor, " prompt"] | None = None

    @property
    def key_token(self) -> int:
        """``argmax_j S_acc(j)``. Raises ``ValueError`` where ``S_acc`` was not computed."""
        if self.profile is None:
            raise ValueError("S_acc was not computed: set traces=True in the corruption")
        return key_token(self.profile)


Token = Callable[[Traced], int]
"""The virtual token that a corruption is about."""
Change = Callable[[SoftPrompt, Traced], SoftPrompt]
"""The corrupted prompt."""


def _key_token(traced: Traced) -> int:
    return traced.key_token


@dataclass(frozen=True, slots=True)
class Corruption:
    """How the prompt of the second pass is made.

    apply: from the prompt and the traced answer to the corrupted prompt, of the same shape. rule: what it does, in
    words, for records and pages. token: the virtual token that it is about, None where there is no such token.
    traces: whether ``S_acc`` is needed, which takes a forward and a backward pass; a function of the settings where it
    depends on them. overrides: values that replace
    those of the run's method settings. by_token: ``apply`` depends on prompt, token and settings alone, so that it is
    computed once per token.
    """

    rule: str
    apply: Change
    token: Token | None = _key_token
    traces: bool | Callable[[MethodSettings], bool] = True
    overrides: Mapping[str, Any] = field(default_factory=dict)
    by_token: bool = False

    def __post_init__(self) -> None:
        if self.traces is False and self.token is _key_token:
            raise UserError(
                f"corruption {self.rule!r}: traces=False leaves the key token unknown; set token=None, or a function"
            )

    def checked(self, prompt: SoftPrompt, traced: Traced) -> SoftPrompt:
        """``apply`` to a copy of ``prompt``. Raises ``UserError`` for a function that fails or gives no such prompt."""
        try:
            made = self.apply(SoftPrompt.of(prompt.vectors, prompt.base_model), traced)
        # Whatever a user's function raises is a mistake in that function.
        except Exception as error:
            raise UserError(f"corruption {self.rule!r}: does not run ({type(error).__name__}: {error})") from error
        if not isinstance(made, SoftPrompt) or made.vectors.shape != prompt.vectors.shape:
            given = tuple(made.vectors.shape) if isinstance(made, SoftPrompt) else type(made).__name__
            raise UserError(
                f"corruption {self.rule!r}: gave {given}, expected a SoftPrompt of shape {tuple(prompt.vectors.shape)}"
            )
        if not bool(made.vectors.isfinite().all()):
            raise UserError(f"corruption {self.rule!r}: gave vectors that are not finite numbers")
        # Its hash is that of the vectors that are there now.
        return SoftPrompt.of(made.vectors, prompt.base_model)

    def needs_trace(self, settings: MethodSettings) -> bool:
        """Whether ``S_acc`` must be computed."""
        return self.traces(settings) if callable(self.traces) else self.traces

    def settings(self, run: MethodSettings) -> MethodSettings:
        """The run's settings with what this corruption overrides."""
        return run.model_copy(update=dict(self.overrides))


def mask_token(
    which: str,
    token: Token = _key_token,
    *,
    traces: bool | Callable[[MethodSettings], bool] = True,
    **overrides: Any,
) -> Corruption:
    """The paper's corruption of a chosen token: its vector becomes zero, the other vectors are pruned.

    which: the token in words. As far as the settings say: ``gamma``, ``prune_scope``, ``mask_key``.
    """

    def apply(prompt: SoftPrompt, traced: Traced) -> SoftPrompt:
        s = traced.settings
        vectors = corrupt(
            prompt.vectors,
            token(traced),
            s.gamma,
            s.prune_scope,
            s.mask_key,
            prune_by=s.prune_by,
            prune_rounding=s.prune_rounding,
            mask_value=s.mask_value,
        )
        return SoftPrompt.of(vectors, prompt.base_model)

    return Corruption(which, apply, token, traces, overrides, by_token=True)


def _least_token(traced: Traced) -> int:
    assert traced.profile is not None
    return int(traced.profile.argmin())


def _first_token(traced: Traced) -> int:
    return 0


def _random_token(traced: Traced) -> int:
    if traced.settings.random_may_draw_key or traced.length == 1:
        return draw_position(traced.first.seed, traced.first.question, traced.length)
    other = draw_position(traced.first.seed, traced.first.question, traced.length - 1)
    return other + (other >= traced.key_token)


def _must_know_key(settings: MethodSettings) -> bool:
    return not settings.random_may_draw_key


KEY_TOKEN = mask_token("largest S_acc")
LEAST_TOKEN = mask_token("smallest S_acc", _least_token)
FIRST_TOKEN = mask_token("first position", _first_token, traces=False)
RANDOM_TOKEN = mask_token("random position", _random_token, traces=_must_know_key)
